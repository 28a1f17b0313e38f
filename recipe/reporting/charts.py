"""Charts inside the page, each with its title and its words for those who do not see it."""

from collections.abc import Callable
from typing import Any
from xml.etree.ElementTree import Element

from recipe.picture import as_element, new_figure
from recipe.reporting.markup import element

_WIDTH, _HEIGHT = 4.6, 2.9


def chart(title: str, said: str, draw: Callable[[Any], None], height: float = _HEIGHT) -> Element:
    """A figure with what `draw` puts on matplotlib's axes; narrow, so that its texts stay legible
    on a telephone. `height` in inches."""
    figure = new_figure(figsize=(_WIDTH, height), layout="constrained")
    draw(figure.subplots())
    return element("figure", element("figcaption", title), as_element(figure, f"{title}. {said}"))
