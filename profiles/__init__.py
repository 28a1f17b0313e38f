"""Data only: facts about model families (`models/`) and about targets (`targets/`), as TOML."""
