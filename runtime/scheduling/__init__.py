"""Rows of all waiting requests share the engine's calls: see `scheduler`."""
