"""Speed and fidelity of ours and of the peers, on the same checkpoints and the same texts."""
