"""The activation that a reranker's checkpoint was saved with, which decides its relevance_score.

sentence-transformers writes the dotted name of a PyTorch class: from version 6 on into
config_sentence_transformers.json, from 4 on below `sentence_transformers` in config.json, in
earlier versions as `sbert_ce_default_activation_function` there. They are read in this order, as
there.
"""

from collections.abc import Mapping
from typing import Any

from runtime.postprocess import Activation

CONFIG_FILE = "config.json"
SENTENCE_FILE = "config_sentence_transformers.json"

_OLD_KEY = "sbert_ce_default_activation_function"
# The activations of one logit, by PyTorch's names.
ONE_LOGIT: Mapping[str, Activation] = {
    "torch.nn.modules.activation.Sigmoid": "sigmoid",
    "torch.nn.modules.linear.Identity": "identity",
    "torch.nn.Sigmoid": "sigmoid",
    "torch.nn.Identity": "identity",
}
_INNER_KEY = "sentence_transformers.activation_fn"
_MOST_SHOWN = 80


def saved_activation(
    config: Mapping[str, Any],
    sentence: Mapping[str, Any],
    known: Mapping[str, Activation] = ONE_LOGIT,
) -> tuple[Activation, str] | None:
    """The activation that config.json and config_sentence_transformers.json name, with the file and
    key that name it, None if they name none; `known` are those that are supported.

    Raises ValueError with the value found for an unknown one.
    """
    inner = config.get("sentence_transformers")
    inner = {} if inner is None else inner
    if not isinstance(inner, Mapping):
        raise ValueError(
            f"{CONFIG_FILE} has sentence_transformers = {repr(inner)[:_MOST_SHOWN]}, wanted an "
            "object; save the model with sentence-transformers again"
        )
    places = (
        (SENTENCE_FILE, "activation_fn", sentence.get("activation_fn")),
        (CONFIG_FILE, _INNER_KEY, inner.get("activation_fn")),
        (CONFIG_FILE, _OLD_KEY, config.get(_OLD_KEY)),
    )
    for file, key, found in places:
        if found is None:
            if key == _INNER_KEY and "activation_fn" in inner:
                return None  # as sentence-transformers does
            continue
        if not isinstance(found, str) or found not in known:
            raise ValueError(
                f"{file} has {key} = {repr(found)[:_MOST_SHOWN]}, wanted one of: "
                f"{', '.join(list(known)[:2])}; a relevance_score by another activation would be "
                "another number"
            )
        return known[found], f"{file} ({key})"
    return None
