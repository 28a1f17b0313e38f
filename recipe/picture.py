"""Figures as SVG: the same bytes for the same data, and no file but the caller's."""

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
        # Late: half a second. The list of fonts is made with it.
        from matplotlib.figure import Figure

    return Figure(**options)


def as_svg(figure: Any) -> bytes:
    """The whole file."""
    import matplotlib as mpl

    buffer = io.BytesIO()
    # Without it every run writes other identifiers into the same picture.
    with mpl.rc_context({"svg.hashsalt": "recipe"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


@contextlib.contextmanager
def _no_settings_of_the_user() -> Iterator[None]:
    """matplotlib would keep its list of fonts under HOME, and take its settings from there."""
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
