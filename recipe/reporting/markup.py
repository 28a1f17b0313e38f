"""HTML as a tree of elements, which escapes every text when it is written.

Texts of a page are strangers' (questions, paths, names of models), so no markup is put together
from strings.
"""

import re
from collections.abc import Sequence
from importlib.resources import files
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

# Control characters and halves of surrogate pairs, which no page may hold.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
# A number, several of them, or none.
_NUMBER = re.compile(r"[<]? ?[-+]?\d[\d.]*(e[-+]\d+)?((/| … )[-+]?[\d.]+)*|–")
GENERATOR = "rerank report"
# Nothing is fetched and no script runs, whatever a text holds.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"

Content = Element | str


def element(tag: str, *children: Content, **attributes: str) -> Element:
    """An element; `class_` and `aria_label` are the attributes class and aria-label."""
    made = Element(
        tag, {k.rstrip("_").replace("_", "-"): printable(v) for k, v in attributes.items()}
    )
    for child in children:
        if isinstance(child, Element):
            made.append(child)
        elif len(made):
            made[-1].tail = (made[-1].tail or "") + printable(child)
        else:
            made.text = (made.text or "") + printable(child)
    return made


def printable(text: str) -> str:
    """`text` with a replacement character for each that cannot be shown."""
    return _UNPRINTABLE.sub("\ufffd", text)


def table(caption: str, head: Sequence[str], rows: Sequence[Sequence[Content]]) -> Element:
    """A table that scrolls by itself where it is too wide; the first cell of a row names it.

    Columns of numbers end at the same place.
    """
    numeric = [
        bool(place) and all(isinstance(c, str) and _NUMBER.fullmatch(c) for c in column)
        for place, column in enumerate(zip(*rows, strict=True))
    ]
    kinds = [{"class_": "number"} if one else {} for one in numeric]
    titles = [
        element("th", one, scope="col", **kind) for one, kind in zip(head, kinds, strict=True)
    ]
    lines = [
        element(
            "tr",
            element("th", row[0], scope="row"),
            *(element("td", one, **kind) for one, kind in zip(row[1:], kinds[1:], strict=True)),
        )
        for row in rows
    ]
    return element(
        "div",
        element(
            "table",
            element("caption", caption),
            element("thead", element("tr", *titles)),
            element("tbody", *lines),
        ),
        class_="wide",
        tabindex="0",
        role="region",
        aria_label=caption,
    )


def listed(caption: str, facts: Sequence[tuple[str, Content]]) -> Element:
    """Named facts, under a heading."""
    pairs = [part for k, v in facts for part in (element("dt", k), element("dd", v))]
    return element("section", element("h3", caption), element("dl", *pairs))


def foreign(text: str, most: int = 300) -> Element:
    """A stranger's text: its direction and its white space stay its own."""
    shown = text if len(text) <= most else f"{text[:most]}…"
    return element("bdi", " ".join(shown.split()))


def folded(summary: str, *children: Content) -> Element:
    """What is shown on demand."""
    return element("details", element("summary", summary), *children)


def page(title: str, parts: Sequence[tuple[str, str, Sequence[Content]]]) -> bytes:
    """The page: (id, heading, content) of each part, with links to them on top."""
    style = (files("recipe.reporting") / "report.css").read_text("utf-8")
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", **{"http-equiv": "Content-Security-Policy", "content": _POLICY}),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("meta", name="generator", content=GENERATOR),
        element("title", title),
        element("style", style),
    )
    links = [element("a", heading, href=f"#{name}") for name, heading, _ in parts]
    sections = [
        element("section", element("h2", heading, id=name), *content)
        for name, heading, content in parts
    ]
    body = element(
        "body",
        element("header", element("h1", title), element("nav", *links, aria_label="Parts")),
        element("main", *sections),
    )
    whole = ElementTree.tostring(
        element("html", head, body, lang="en"), encoding="unicode", method="html"
    )
    return b"<!DOCTYPE html>\n" + whole.encode() + b"\n"
