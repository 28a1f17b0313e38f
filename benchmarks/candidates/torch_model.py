"""PyTorch and transformers, as candidates use them.

As a candidate without a server, one unpadded row a call: in float32 the reference for fidelity.
"""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from benchmarks.protocol import Score, Setting, templated


class TorchModel:
    """A checkpoint in the dtype of the options, on the CPU."""

    def __init__(self, setting: Setting) -> None:
        torch.set_num_threads(setting.threads)
        self._setting = setting
        self._tokenizer = AutoTokenizer.from_pretrained(
            setting.checkpoint, trust_remote_code=True, local_files_only=True
        )
        # transformers moves to trust_remote_code's class by the checkpoint's auto_map.
        self._model = AutoModelForSequenceClassification.from_pretrained(
            setting.checkpoint,
            dtype=getattr(torch, setting.options["dtype"]),
            trust_remote_code=True,
            local_files_only=True,
        ).eval()

    def score(self, query: str, passages: Sequence[str]) -> list[float]:
        """The logits of all pairs, computed as one batch padded to its longest pair."""
        with torch.inference_mode():
            logits = self._model(**self._encode(query, passages)).logits
        return [float(logit) for logit in logits[:, 0].float()]

    def _encode(self, query: str, passages: Sequence[str]) -> Any:
        shape = {
            "padding": True,
            "max_length": self._setting.max_tokens,
            "return_tensors": "pt",
        }
        template = self._setting.template
        if template is None:
            return self._tokenizer(
                [query] * len(passages), list(passages), truncation="only_second", **shape
            )
        texts = [templated(template, query, passage) for passage in passages]
        return self._tokenizer(texts, truncation=True, **shape)


def load(setting: Setting) -> Score:
    """Scores row by row."""
    model = TorchModel(setting)
    return lambda query, passages: [model.score(query, [passage])[0] for passage in passages]
