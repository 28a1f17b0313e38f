"""The classifier of an adapter whose base has none, as is usual.

Loaders build the classifier of the base's family from the base's body and the adapter's head, and
drop the head that the base was saved with.
"""

from collections.abc import Mapping

from exporter.adapter import ADAPTER_CONFIG, ADAPTER_WEIGHTS, Adapter
from exporter.architectures import BODIES, CROSS_ENCODERS
from exporter.architectures.base import Body
from exporter.architectures.config import Config
from exporter.errors import CheckpointRefused
from exporter.merging import full_tensors
from exporter.weights import Stored

# How transformers names the classes that share a body.
_SAVED_AS = ("Model", "ForMaskedLM", "ForPreTraining")
_CLASSIFIER = "ForSequenceClassification"
_CLASSIFIES, _EMBEDS = "SEQ_CLS", "FEATURE_EXTRACTION"
# Heads of language modelling and sentence prediction.
_OTHER_HEADS = ("cls.", "decoder.", "lm_head.", "lm_predictions.", "mask_predictions.")
_LABELS = ("num_labels", "id2label", "label2id")


def adapted_config(config: Config, adapter: Adapter, *, embeds: bool) -> Config:
    """The base's config.json, changed to that of the merged model.

    `embeds` is true if modules.json or an option says how states become a vector. Raises
    CheckpointRefused for a classifier without a head in either.
    """
    names = config.get("architectures")
    name = names[0] if isinstance(names, list) and len(names) == 1 else None
    if not isinstance(name, str) or not name.endswith(_SAVED_AS):
        return config
    stem = name.removesuffix(next(end for end in _SAVED_AS if name.endswith(end)))
    ranks = CROSS_ENCODERS.get(stem + _CLASSIFIER)
    if ranks is not None and (head := full_tensors(adapter).get(ranks.logit)) is not None:
        _refuse_labels(adapter, head)
        bare = {key: value for key, value in config.items() if key not in _LABELS}
        return Config(bare, architectures=[stem + _CLASSIFIER], num_labels=1)
    if ranks is not None and adapter.task == _CLASSIFIES:
        raise CheckpointRefused(
            f"{ADAPTER_CONFIG} in {adapter.directory} has task_type = {_CLASSIFIES}, but the base "
            f"is a {name} and has no score head, and the adapter has no {ranks.logit}; train it "
            f"with modules_to_save = [{ranks.logit.partition('.')[0]!r}], or name the classifier "
            "that it was trained on as the base"
        )
    if (embeds or adapter.task == _EMBEDS) and f"{stem}Model" in BODIES:
        return Config(config, architectures=[f"{stem}Model"])
    return config


def _refuse_labels(adapter: Adapter, head: Stored) -> None:
    """Raise CheckpointRefused for a classifier of more than one label: sentence-transformers makes
    one of one label where the base has none."""
    if head.shape[:1] != (1,):
        raise CheckpointRefused(
            f"{ADAPTER_WEIGHTS} in {adapter.directory} has {head.name} as {list(head.shape)}, "
            "wanted one row, as the base has no classifier: name a classifier of as many labels as "
            "the base, or train with num_labels = 1"
        )


def without_head(weights: Mapping[str, Stored], body: type[Body]) -> dict[str, Stored]:
    """The base's `weights` without the heads of other tasks, by the names of a classifier."""
    bare = {name: found for name, found in weights.items() if not name.startswith(_OTHER_HEADS)}
    if any(name.startswith(body.prefix) for name in bare):
        return bare
    return {f"{body.prefix}{name}": found for name, found in bare.items()}
