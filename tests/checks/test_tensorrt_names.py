"""check-tensorrt on bindings written for this test: it detects missing names and wrong calls."""

import pytest

from checks.tensorrt_names import complaint, uses


class Builder:
    def create_network(self, flags: int = 0) -> None:
        """create_network(self: t.Builder, flags: typing.SupportsInt = 0) -> t.INetworkDefinition"""

    def build(self, *args: object) -> None:
        """build(*args, **kwargs)
        Overloaded function.

        1. build(self: t.Builder, network: t.N, config: t.C) -> t.M

        2. build(self: t.Builder, network: t.N) -> t.M
        """


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("trt.BuilderFlag.TF32", None),
        ("trt.BuilderFlag.FP16", "has no BuilderFlag.FP16"),
        ("self._trt.NoSuchThing()", "has no NoSuchThing"),
        ("builder.create_network(3)", None),
        ("builder.create_network()", None),
        ("builder.create_network(3, 4)", "called with 2 arguments"),
        ("builder.build(a, b)", None),
        ("builder.build(*both)", None),
        ("builder.build(a, network=b)", "called with"),
        ("builder.build()", "called with 0 arguments"),
        ("builder.destroy()", "Builder has no destroy"),
    ],
)
def test_a_wrong_use_is_told(line: str, wanted: str | None) -> None:
    class Loaded:
        class BuilderFlag:
            TF32 = 1

        class Builder:
            create_network = NATIVE[0]
            build = NATIVE[1]

    complaints = [text for use in uses("some.py", line) if (text := complaint(use, Loaded))]
    assert bool(complaints) == (wanted is not None)
    assert (wanted or "") in "".join(complaints)


class _Native:
    """A function of a compiled module: it has a docstring and no Python signature."""

    def __init__(self, text: str) -> None:
        self.__doc__ = text

    def __call__(self) -> None: ...


def _native(function: object) -> _Native:
    return _Native(function.__doc__ or "")


NATIVE = (_native(Builder.create_network), _native(Builder.build))
