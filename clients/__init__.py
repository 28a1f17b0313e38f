"""NVIDIA's and other people's clients, unchanged, against a running server: `make test-clients`."""
