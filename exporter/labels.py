"""A reranker's labels: one, whose logit is the score, or two, whose difference is.

Of two labels a classifier gives two logits, and the softmax's share of label 1 is the sigmoid of
logit[1] - logit[0]: that difference is one row of weights.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from exporter.architectures.base import Size
from exporter.architectures.config import Config, shown
from exporter.errors import CheckpointRefused
from exporter.weights import Stored
from runtime.postprocess import Activation

# The score of two labels.
DIFFERENCE = "logit[1] - logit[0]"
# Saved activations of two logits that depend only on their difference.
OF_TWO_LOGITS: Mapping[str, Activation] = {
    "torch.nn.modules.linear.Identity": "sigmoid",
    "torch.nn.modules.activation.Softmax": "sigmoid",
    "torch.nn.Identity": "sigmoid",
    "torch.nn.Softmax": "sigmoid",
}
# Names of labels, letters only, that say which of the two is the relevant one.
_RELEVANT = frozenset(
    """
    relevant positive pos yes true entailment entailed duplicate match related similar
    """.split()
)
_IRRELEVANT = frozenset(
    """
    irrelevant notrelevant nonrelevant unrelevant negative neg no false notentailment
    nonentailment notentailed notduplicate nonduplicate nomatch notmatch mismatch unrelated
    notrelated dissimilar notsimilar
    """.split()
)


@dataclass(frozen=True)
class Labels:
    """How many labels a classifier has, 1 or 2, and their names in config.json, if it has any."""

    count: int
    named: tuple[str, ...] = ()

    @property
    def message(self) -> str:
        """The log line for two labels."""
        names = f" ({self.named[0]!r} and {self.named[1]!r})" if len(self.named) == 2 else ""
        return f"found two labels{names}; the exported logit is {DIFFERENCE}"

    def size(self, logit: str) -> Size:
        """The number of labels in config.json as a size of the parameter `logit`."""
        advice = (
            "name as many labels as the head has rows: num_labels or id2label, without which "
            "transformers takes two"
        )
        return Size("num_labels", self.count, logit, advice=advice)


ONE_LABEL = Labels(1)


def read_labels(config: Config) -> Labels:
    """The labels of config.json. Raises CheckpointRefused for more than two, for two that are
    independent, and for two whose names say that label 0 is the relevant one."""
    # transformers omits both keys for its default of two labels.
    named = config.get("id2label")
    if named is not None and not isinstance(named, dict):
        raise CheckpointRefused(
            f"config.json has id2label = {shown(named)}, wanted an object with one label or two; "
            "name as many as the head has rows"
        )
    count = config.whole("num_labels", len(named or "12"))
    if count not in (1, 2):
        raise CheckpointRefused(
            f"config.json has num_labels = {count}, wanted 1, or 2 whose difference is the score: "
            "a reranker gives one logit a pair; fine-tune with one label, or set num_labels (or "
            "id2label) to what the head has"
        )
    if count == 1:
        return ONE_LABEL
    kind = config.get("problem_type")
    if kind not in (None, "single_label_classification"):
        raise CheckpointRefused(
            f"config.json has two labels and problem_type = {shown(kind)}, wanted "
            "single_label_classification: otherwise the labels are independent scores, and their "
            "difference is not a score; fine-tune with one label"
        )
    names = _names(named or {})
    _refuse_order(names)
    return Labels(2, names)


def merge_labels(weights: Mapping[str, Stored], logit: str) -> dict[str, Stored]:
    """`weights` with the two rows of the parameter `logit`, and of its bias, replaced by their
    difference."""
    found = dict(weights)
    for name in (logit, f"{logit.removesuffix('weight')}bias"):
        if name in found and found[name].shape[:1] == (2,):
            of = found[name]
            found[name] = _Difference(of.file, of.name, (1, *of.shape[1:]), of)
    return found


@dataclass(frozen=True)
class _Difference(Stored):
    """Row 1 minus row 0 of a tensor."""

    of: Stored

    def read(self) -> torch.Tensor:
        """See Stored."""
        rows = self.of.read()
        return rows[1:] - rows[:1]


def _names(named: Mapping[str, Any]) -> tuple[str, ...]:
    """Of label 0 and label 1; empty unless both are named by words."""
    names = [named.get(number) for number in ("0", "1")]
    written = [name for name in names if isinstance(name, str) and not name.startswith("LABEL_")]
    return tuple(written) if len(written) == 2 else ()


def _refuse_order(names: tuple[str, ...]) -> None:
    if not names:
        return
    first, second = (re.sub(r"[\W\d_]+", "", name.lower()) for name in names)
    if (first in _RELEVANT and second not in _RELEVANT) or (
        second in _IRRELEVANT and first not in _IRRELEVANT
    ):
        raise CheckpointRefused(
            f"config.json calls label 0 {names[0]!r} and label 1 {names[1]!r}, wanted the relevant "
            "one as label 1, whose logit counts for a pair; swap the rows of the head and the "
            "names in id2label and label2id, or the names alone if they are wrong"
        )
