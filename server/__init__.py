"""The Litestar server: NIM's ranking, health and metadata surface over `runtime`."""
