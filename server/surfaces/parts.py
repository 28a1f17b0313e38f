"""Documents that are objects with an image: Jina's `image`, and vLLM's `content` of parts."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from server.call import Place
from server.errors import InvalidRequest
from server.images import SentImage

CONTENT, IMAGE = "content", "image"
# Reading them is not interrupted.
_MOST_PARTS = 64


class Parts(NamedTuple):
    """A document's text, which may be empty beside its image."""

    text: str
    image: SentImage | None = None


def image_of(document: Mapping[str, Any], place: Place) -> SentImage | None:
    """Jina's `image` of the document at `place`; None without one. Raises InvalidRequest."""
    found = document.get(IMAGE)
    if found is None:
        return None
    return SentImage(_text(found, (*place, IMAGE)), (*place, IMAGE))


def content_of(document: Mapping[str, Any], place: Place) -> Parts:
    """vLLM's `content` of the document at `place`: a text, or a list of parts of the types text and
    image_url, with one image at most; texts are joined as lines. Raises InvalidRequest."""
    content, place = document[CONTENT], (*place, CONTENT)
    if isinstance(content, str):
        return Parts(content)
    if not isinstance(content, list) or not content:
        raise InvalidRequest("type_error", place, "wanted a text, or a list of parts")
    if len(content) > _MOST_PARTS:
        message = f"found {len(content)} parts, wanted at most {_MOST_PARTS} in one document"
        raise InvalidRequest("too_long", place, message)
    texts = []
    image = None
    for number, part in enumerate(content):
        found = _part(part, (*place, number))
        if isinstance(found, str):
            texts.append(found)
        elif image is not None:
            message = "found several images in one document, wanted one"
            raise InvalidRequest("value_error", found.place, message)
        else:
            image = found
    return Parts("\n".join(texts), image)


def _part(part: object, place: Place) -> str | SentImage:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind not in ("text", "image_url"):
        raise InvalidRequest("type_error", place, "wanted a part of the type text or image_url")
    assert isinstance(part, dict)
    place = (*place, kind)
    found = part.get(kind)
    if kind == "text":
        return _text(found, place)
    if isinstance(found, dict):
        found, place = found.get("url"), (*place, "url")
    return SentImage(_text(found, place), place)


def _text(found: object, place: Place) -> str:
    if not isinstance(found, str):
        raise InvalidRequest("type_error", place, "wanted a text")
    return found
