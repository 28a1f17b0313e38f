"""Clients of NVIDIA and others, unmodified, against a running server: `make test-clients`."""
