"""A model repository for Triton Inference Server, made of an artifact."""
