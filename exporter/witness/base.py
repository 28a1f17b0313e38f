"""The interface of every witness, and checks of its weights while they are loaded."""

import threading
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

from exporter.answers import Tokens
from exporter.errors import NoWitness
from exporter.quiet import quiet
from runtime.postprocess import InputType

Values = npt.NDArray[np.float64]

# Weights that transformers initialises if they are missing, and that no state depends on.
_WITHOUT_EFFECT = ("pooler.",)
# Heads of pretraining. A loader without such a layer drops their weights, which does not change
# its output.
_PRETRAINING = tuple(
    """
    cls.predictions. cls.seq_relationship. discriminator_predictions. generator_lm_head.
    generator_predictions. lm_head. lm_predictions. mask_predictions.
    """.split()
)
# ModernBERT's, whose classifier has a layer of that name.
_PRETRAINING_OF_BODIES = ("decoder.", "head.")
# Prefixes of training wrappers. They are ignored here; loaders do not ignore them.
_WRAPPERS = {
    r"_orig_mod\.": "",
    r"_fsdp_wrapped_module\.": "",
    r"_checkpoint_wrapped_module\.": "",
    r"^module\.": "",
}
# One model at a time is checked, as the patch is global.
_PATCHING = threading.Lock()


class Witness(ABC):
    """One loaded checkpoint. `name` is the loader and its version."""

    name: str

    @abstractmethod
    def values(self, tokens: Tokens) -> Values:
        """The model's output for these ids, float64 [components]: one unpadded row."""


class RankWitness(Witness):
    """Scores pairs of texts; the one component is the logit. `activation` is its loader's for
    a relevance, None if it has none."""

    activation: str | None = None

    @abstractmethod
    def score(self, query: str, passage: str) -> tuple[Tokens, Values]:
        """The pair as this loader feeds it to its model, and the logit, float64 [1]."""


class VectorWitness(Witness):
    """Embeds texts; the components are the vector's."""

    @abstractmethod
    def embed(self, text: str, input_type: InputType | None) -> tuple[Tokens, Values]:
        """The text as this loader feeds it to its model, and its vector, float64 [d]."""


def tokens_of(inputs: dict[str, Any], *, typed: bool) -> Tokens:
    """The one row of int64 [1, tokens] that a model was called with.

    A model with type inputs (`typed`) uses zeros if it gets none. Raises NoWitness for a row with
    masked tokens, which a single text must not have.
    """
    ids, mask = inputs["input_ids"], inputs.get("attention_mask")
    if len(ids) != 1 or (mask is not None and not bool(mask.all())):
        raise NoWitness("it pads a single text; such a row cannot be compared")
    types = inputs.get("token_type_ids")
    if types is None and typed:
        types = torch.zeros_like(ids)
    return Tokens(ids[0].tolist(), None if types is None or not typed else types[0].tolist())


def one_logit(found: Values) -> Values:
    """The logit, float64 [1], of a classifier's output for one row: of two labels' logits the
    second minus the first. Raises NoWitness for more."""
    if len(found) > 2:
        raise NoWitness(f"it gives {len(found)} logits a pair, of which none is the score")
    return found if len(found) == 1 else found[1:] - found[:1]


def row_of(tokens: Tokens) -> dict[str, torch.Tensor]:
    """`tokens` as inputs of a model, int64 [1, tokens] each."""
    ids = torch.tensor([tokens.token_ids])
    row = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if tokens.type_ids is not None:
        row["token_type_ids"] = torch.tensor([tokens.type_ids])
    return row


@contextmanager
def complete_weights(brought: Collection[str] = ()) -> Iterator[None]:
    """Raise NoWitness if a model that the block loads reports weights that are missing, left over,
    of another shape or initialised: it then computes something else than the checkpoint.

    Those in an adapter (`brought`, by name) may be missing. transformers reports this on request
    only, and sentence-transformers does not request it.
    """
    bars = transformers_logging.is_progress_bar_enabled()
    with _PATCHING, _asking_for_weights(brought), quiet("sentence_transformers", "transformers"):
        transformers_logging.disable_progress_bar()
        try:
            yield
        finally:
            if bars:
                transformers_logging.enable_progress_bar()


@contextmanager
def trying(what: str) -> Iterator[None]:
    """Turn whatever the block raises into NoWitness: `what` says who cannot do what."""
    try:
        yield
    except NoWitness:
        raise
    except Exception as error:  # a folder that a loader cannot use surfaces as many classes
        raise NoWitness(f"{what} ({type(error).__name__}: {error})") from error


@contextmanager
def _asking_for_weights(brought: Collection[str]) -> Iterator[None]:
    original = PreTrainedModel.from_pretrained.__func__  # type: ignore[attr-defined]

    def asking(cls: type[PreTrainedModel], *arguments: Any, **options: Any) -> Any:
        with_info = options.pop("output_loading_info", False)
        # Otherwise transformers raises a message without the names.
        options["ignore_mismatched_sizes"] = True
        options["key_mapping"] = _WRAPPERS | (options.get("key_mapping") or {})
        model, found = original(cls, *arguments, output_loading_info=True, **options)
        headless = cls.__name__.endswith("Model")
        refuse_incomplete(found, headless=headless, brought=brought)
        return (model, found) if with_info else model

    with patch.object(PreTrainedModel, "from_pretrained", classmethod(asking)):
        yield


def refuse_incomplete(
    found: dict[str, Any], *, headless: bool, brought: Collection[str] = ()
) -> None:
    """Raise NoWitness for problems that transformers `found` when it loaded a model; a `headless`
    model needs no pooler."""
    for kind, what in (
        ("missing_keys", "made up, as the files hold none"),
        ("unexpected_keys", "left out, as no layer wants them"),
        ("mismatched_keys", "of another shape than the layers want"),
    ):
        names = sorted({str(name) for name in found.get(kind) or ()} - {*brought})
        if kind == "unexpected_keys":
            heads = _PRETRAINING_OF_BODIES if headless else ()
            names = [name for name in names if not name.startswith((*_PRETRAINING, *heads))]
        # A classifier reads its pooler, unless its architecture has none; a body never does.
        if headless or kind == "unexpected_keys":
            names = [name for name in names if not _has_no_effect(name)]
        if names:
            shown = ", ".join(names[:5]) + (" …" if len(names) > 5 else "")
            raise NoWitness(f"weights are {what}: {shown}")


def _has_no_effect(name: str) -> bool:
    return any(f".{part}" in f".{name}" for part in _WITHOUT_EFFECT)
