"""How fast and how faithful: ours and the peers, on the same checkpoints and the same texts."""
