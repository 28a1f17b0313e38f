"""PyTorch and transformers, as candidates use them.

As a candidate without a server, one unpadded row a call: in float32 the reference for fidelity.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from benchmarks.protocol import Score, Setting, templated

# Which tokens a language model answers by.
_LOGIT_SCORE = "1_LogitScore/config.json"


class TorchModel:
    """A checkpoint in the dtype of the options, on the CPU."""

    def __init__(self, setting: Setting) -> None:
        torch.set_num_threads(setting.threads)
        self._setting = setting
        self._tokenizer = AutoTokenizer.from_pretrained(
            setting.checkpoint, trust_remote_code=True, local_files_only=True
        )
        head = Path(setting.checkpoint) / _LOGIT_SCORE
        self._judge = json.loads(head.read_text()) if head.is_file() else None
        kind = AutoModelForCausalLM if self._judge else AutoModelForSequenceClassification
        # transformers moves to trust_remote_code's class by the checkpoint's auto_map.
        self._model = kind.from_pretrained(
            setting.checkpoint,
            dtype=getattr(torch, setting.options["dtype"]),
            trust_remote_code=True,
            local_files_only=True,
        ).eval()

    def score(self, query: str, passages: Sequence[str]) -> list[float]:
        """The logits of all pairs, computed as one batch padded to its longest pair."""
        inputs = self._encode(query, passages)
        with torch.inference_mode():
            if self._judge is None:
                logits = self._model(**inputs).logits[:, 0]
            else:
                logits = self._answers(inputs, self._judge)
        return [float(logit) for logit in logits.float()]

    def _answers(self, inputs: Any, judge: dict[str, Any]) -> torch.Tensor:
        """The next token's logit of one word minus that of the other; nothing is generated."""
        found = self._model(**inputs, logits_to_keep=1, use_cache=False).logits[:, -1]
        return found[:, judge["true_token_id"]] - found[:, judge["false_token_id"]]

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
