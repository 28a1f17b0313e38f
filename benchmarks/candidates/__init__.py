"""One file per candidate; each runs in its own process, most of them in their own environment, so
none imports more of this repository than benchmarks.protocol."""
