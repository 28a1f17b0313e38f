"""One file a candidate; each runs in a process of its own, most of them in an environment of their
own, so that none imports more of this repository than benchmarks.protocol."""
