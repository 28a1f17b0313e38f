"""The page of a run: its parts, each of them from files that the stages left."""
