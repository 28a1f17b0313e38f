"""Training of cross-encoders: data, model, loop, curves. The stage is recipe/finetune.py."""
