"""Reading config.json: one voice for everything that an architecture refuses."""

from collections.abc import Mapping
from typing import Any

from exporter.errors import CheckpointRefused


def require(config: Mapping[str, Any], key: str) -> Any:
    """The value of `key`, which the architecture cannot do without."""
    if config.get(key) is None:
        raise CheckpointRefused(
            f"config.json has no {key!r}, which this architecture needs; complete the checkpoint"
        )
    return config[key]


def one_of(config: Mapping[str, Any], key: str, known: tuple[str, ...], default: str) -> str:
    """The value of `key`, refused by name when it is none of `known`."""
    found = default if config.get(key) is None else config[key]
    if found not in known:
        raise CheckpointRefused(
            f"config.json has {key} = {found!r}, wanted one of: {', '.join(known)}; exporting it "
            "as anything else would give other scores"
        )
    return str(found)


def refuse_unless(config: Mapping[str, Any], key: str, wanted: Any) -> None:
    """Refuse any value of `key` but `wanted`, which an absent or null key stands for."""
    found = config.get(key)
    if found is not None and found != wanted:
        raise CheckpointRefused(
            f"config.json has {key} = {found!r}, wanted {wanted!r}: the exporter does not "
            "implement it; export a checkpoint without it"
        )
