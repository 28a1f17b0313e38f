"""Network calls and leftover files of our processes, observed in a network namespace."""
