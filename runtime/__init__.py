"""Opens an artifact and turns texts into scores; knows no torch, no transformers, no HTTP."""
