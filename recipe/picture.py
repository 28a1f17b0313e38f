"""Figures as SVG, in files and inside a page: deterministic, and no side effects on disk."""

import contextlib
import io
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

# What a page's style decides instead of matplotlib: its ten colours, and black.
_THEMED = {
    "#1f77b4": "var(--series-1)",
    "#ff7f0e": "var(--series-2)",
    "#2ca02c": "var(--series-3)",
    "#d62728": "var(--series-4)",
    "#9467bd": "var(--series-5)",
    "#8c564b": "var(--series-6)",
    "#e377c2": "var(--series-7)",
    "#7f7f7f": "var(--series-8)",
    "#bcbd22": "var(--series-9)",
    "#17becf": "var(--series-10)",
    "#000000": "currentColor",
}
_DROPPED = {"metadata", "style", "title"}


def new_figure(**options: Any) -> Any:
    """matplotlib's Figure with `options`."""
    with _no_settings_of_the_user():
        # Imported late: it takes half a second, and it builds the list of fonts.
        from matplotlib.figure import Figure

    return Figure(**options)


def as_svg(figure: Any, salt: str = "recipe", **options: Any) -> bytes:
    """The figure as an SVG file, with matplotlib's `options` for its texts and ground."""
    import matplotlib as mpl

    buffer = io.BytesIO()
    # Without a salt every run writes other identifiers into the same picture.
    words = options.pop("words", "path")
    with mpl.rc_context({"svg.hashsalt": salt, "svg.fonttype": words}):
        figure.savefig(buffer, format="svg", metadata={"Date": None}, **options)
    return buffer.getvalue()


def as_element(figure: Any, said: str) -> Element:
    """The figure as an element of a page whose other figures have other words: transparent, in the
    page's colours, with its texts as text. `said` describes it."""
    drawn = ElementTree.fromstring(as_svg(figure, said, words="none", transparent=True))
    for one in list(drawn.iter()):
        for child in list(one):
            if _local(child.tag) in _DROPPED:
                one.remove(child)
    linked = {
        name
        for one in drawn.iter()
        for value in one.attrib.values()
        for name in re.findall(r"#(\w+)", value)
    }
    for one in drawn.iter():
        one.tag = _local(one.tag)
        kept = {_local(name): _themed(value) for name, value in one.attrib.items()}
        if kept.get("id") not in linked:
            kept.pop("id", None)
        one.attrib.clear()
        one.attrib.update(kept)
    for size in ("width", "height", "version"):
        drawn.attrib.pop(size, None)
    drawn.attrib.update({"role": "img", "aria-label": said})
    return drawn


def _local(name: str) -> str:
    """A name without its namespace."""
    return name.rpartition("}")[2]


def _themed(value: str) -> str:
    for fixed, own in _THEMED.items():
        value = value.replace(fixed, own)
    return value


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
