"""Figures as SVG: deterministic bytes, and no side effects on disk."""

import contextlib
import io
import os
import sys
import tempfile
from collections.abc import Iterator
from typing import Any


def new_figure(**options: Any) -> Any:
    """matplotlib's Figure with `options`."""
    with _no_settings_of_the_user():
        # Imported late: it takes half a second, and it builds the list of fonts.
        from matplotlib.figure import Figure

    return Figure(**options)


def as_svg(figure: Any) -> bytes:
    """The figure as an SVG file."""
    import matplotlib as mpl

    buffer = io.BytesIO()
    # Without it every run writes other identifiers into the same picture.
    with mpl.rc_context({"svg.hashsalt": "recipe"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


@contextlib.contextmanager
def _no_settings_of_the_user() -> Iterator[None]:
    """Keep matplotlib from writing its font list to HOME and reading the user's settings there."""
    variable = "MPLCONFIGDIR"
    if "matplotlib" in sys.modules or variable in os.environ:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="rerank-matplotlib-") as folder:
        os.environ[variable] = folder
        try:
            yield
        finally:
            del os.environ[variable]
