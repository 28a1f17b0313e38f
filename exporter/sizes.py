"""Compare the sizes in config.json with the weights before anything is allocated."""

import re
from collections.abc import Iterable, Mapping

from exporter.architectures.base import Part, Size
from exporter.architectures.config import Config
from exporter.errors import CheckpointRefused
from exporter.weights import Stored, first

# The deepest models have about a hundred.
_MOST_LAYERS = 1024
_EXPORT = "export the checkpoint as it was saved after training"


def check_sizes(
    body: type[Part], head: Iterable[Size], config: Config, weights: Mapping[str, Stored]
) -> None:
    """Raise CheckpointRefused for the first size that does not match the weights.

    `head` are sizes outside the body, by the checkpoint's own names.
    """
    _check_layers(body, config, weights)
    for size in body.sizes(config):
        _check(size, weights, (body.prefix + size.parameter, size.parameter))
    for size in head:
        _check(size, weights, (size.parameter,))


def _check(size: Size, weights: Mapping[str, Stored], names: tuple[str, ...]) -> None:
    stored = next((weights[name] for name in names if name in weights), None)
    if stored is None:
        raise _missing(size.what, size.value, names[0], weights)
    # An axis of any length costs nothing beside one of length 0.
    found = stored.shape[size.axis] if len(stored.shape) == 2 and all(stored.shape) else 0
    if found != size.value:
        raise CheckpointRefused(
            f"config.json has {size.what} = {size.value}, the weights have {found} "
            f"({stored.name} is {list(stored.shape)}); {size.advice}"
        )


def _missing(what: str, value: int, name: str, weights: Mapping[str, Stored]) -> CheckpointRefused:
    return CheckpointRefused(
        f"config.json has {what} = {value}, the weights do not fit it; missing: {name}; found: "
        f"{first(weights) or 'none'}; {_EXPORT}"
    )


def _check_layers(body: type[Part], config: Config, weights: Mapping[str, Stored]) -> None:
    wanted = config.whole("num_hidden_layers")
    prefix, layer = re.escape(body.prefix), re.escape(body.layer_prefix)
    numbered = re.compile(rf"(?:{prefix})?{layer}(\d{{1,9}})\.")
    found = {int(match[1]) for name in weights if (match := numbered.match(name))}
    if not found:
        name = f"{body.prefix}{body.layer_prefix}0."
        raise _missing("num_hidden_layers", wanted, name, weights)
    if wanted != len(found):
        other = f"{body.prefix}{body.layer_prefix}{{}}."
        which = (
            f"missing: {other.format(len(found))}"
            if wanted > len(found)
            else f"unexpected: {other.format(wanted)}"
        )
        raise CheckpointRefused(
            f"config.json has num_hidden_layers = {wanted}, the weights have {len(found)} layers "
            f"({which}); {_EXPORT}"
        )
    if wanted > _MOST_LAYERS:
        raise CheckpointRefused(
            f"config.json has num_hidden_layers = {wanted}, wanted {_MOST_LAYERS} at most; it "
            "cannot be exported"
        )
