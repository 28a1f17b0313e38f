"""`make bench-gpu`: ours and PyTorch on one NVIDIA GPU. Never shipped."""
