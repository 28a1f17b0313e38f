"""The attention implementation of the PyTorch baseline."""

from importlib.util import find_spec

import torch

FLASH = "flash_attention_2"


def usual_attention(device: str, dtype: torch.dtype) -> str:
    """Flash attention in half precision on a GPU where its package is installed, else sdpa."""
    half = dtype in (torch.float16, torch.bfloat16)
    return FLASH if device.startswith("cuda") and half and find_spec("flash_attn") else "sdpa"
