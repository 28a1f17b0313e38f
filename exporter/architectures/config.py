"""Read values of config.json for architectures, with uniform refusals."""

from typing import Any, Self

from exporter.errors import CheckpointRefused

# The largest float32: weights and angles are computed in it.
_LARGEST = 3.4028234663852886e38
_LARGEST_WHOLE = (1 << 31) - 1
_MOST_SHOWN = 80


def shown(found: object) -> str:
    """`found` for a message: only the beginning of a long value."""
    return repr(found)[:_MOST_SHOWN]


def unlike_base(found: str, wanted: str) -> CheckpointRefused:
    """The refusal of what was `found` in config.json: of a key and its value, mostly."""
    return CheckpointRefused(
        f"config.json has {found}, wanted {wanted}; compare it with the config.json of the base "
        "model"
    )


class Config(dict[str, Any]):
    """A config.json, or an object in one, that records which of its keys were read."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.read: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        self.read.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        """See dict.get."""
        self.read.add(key)
        return super().get(key, default)

    def require(self, key: str) -> Any:
        """The value of `key`, which the architecture requires."""
        if self.get(key) is None:
            raise CheckpointRefused(
                f"config.json has no {key!r}, which this architecture needs; complete the "
                "checkpoint"
            )
        return self[key]

    def whole(self, key: str, default: int | None = None, *, least: int = 1) -> int:
        """The whole number `key`; an absent or null key means `default`, if there is one."""
        if default is not None and self.get(key) is None:
            return default
        found = self.require(key)
        taken = isinstance(found, int) and not isinstance(found, bool)
        if not (taken and least <= found <= _LARGEST_WHOLE):
            wanted = f"a whole number from {least} to {_LARGEST_WHOLE}"
            raise unlike_base(f"{key} = {shown(found)}", wanted)
        return int(found)

    def number(self, key: str, default: float | None = None, *, most: float = _LARGEST) -> float:
        """The number `key`, above 0 and at most `most`; `default` as in `whole`."""
        if default is not None and self.get(key) is None:
            return default
        found = self.require(key)
        taken = isinstance(found, int | float) and not isinstance(found, bool)
        if not (taken and 0 < found <= most):
            raise unlike_base(f"{key} = {shown(found)}", f"a number above 0, at most {most:g}")
        return float(found)

    def epsilon(self, key: str, default: float) -> float:
        """What a norm adds to a variance against a division by zero; at most a small number."""
        return self.number(key, default, most=1.0)

    def flag(self, key: str, default: bool) -> bool:
        """True or false; an absent or null key means `default`."""
        found = self.get(key)
        if found is None:
            return default
        if not isinstance(found, bool):
            raise unlike_base(f"{key} = {shown(found)}", "true or false")
        return found

    def settings(self, key: str) -> Self:
        """The object `key`, empty where it is absent or null."""
        found = self.get(key)
        if found is not None and not isinstance(found, dict):
            raise unlike_base(f"{key} = {shown(found)}", "an object")
        return found if isinstance(found, type(self)) else type(self)(found or {})

    def head_size(self) -> int:
        """The components of one attention head, where all heads together have hidden_size."""
        hidden, heads = self.whole("hidden_size"), self.whole("num_attention_heads")
        if hidden % heads:
            raise CheckpointRefused(
                f"config.json has num_attention_heads = {heads}, which does not divide hidden_size "
                f"= {hidden}; compare it with the config.json of the base model"
            )
        return hidden // heads

    def one_of(self, key: str, known: tuple[str, ...], default: str) -> str:
        """The value of `key`, refused by name when it is none of `known`."""
        found = default if self.get(key) is None else self[key]
        if found not in known:
            raise CheckpointRefused(
                f"config.json has {key} = {shown(found)}, wanted one of: {', '.join(known)}; "
                "exporting it as anything else would give other scores"
            )
        return str(found)

    def refuse_unless(self, key: str, wanted: Any) -> None:
        """Refuse any value of `key` but `wanted`, which an absent or null key means."""
        found = self.get(key)
        if found is not None and found != wanted:
            raise CheckpointRefused(
                f"config.json has {key} = {shown(found)}, wanted {wanted!r}: the exporter does not "
                "implement it; export a checkpoint without it"
            )
