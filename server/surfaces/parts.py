"""Documents and inputs that are objects: Jina's `image`, and vLLM's `content` of parts."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from server.call import Place
from server.errors import InvalidRequest
from server.images import SentImage

CONTENT, IMAGE, TEXT = "content", "image", "text"
# Reading them is not interrupted.
_MOST_PARTS = 64


class Parts(NamedTuple):
    """A document's text, which may be empty beside its image."""

    text: str
    image: SentImage | None = None


def parts_of(document: Mapping[str, Any], place: Place) -> Parts:
    """Text and image of the object at `place`, which has vLLM's `content`, or `text`, Jina's
    `image`, or both. Raises InvalidRequest, also rather than leave an image out."""
    by_content = CONTENT in document and TEXT not in document
    if document.get(IMAGE) is not None if by_content else _shows_image(document.get(CONTENT)):
        message = (
            "found content beside text or image, and an image among them; send one or the other"
        )
        raise InvalidRequest("value_error", place, message)
    if by_content:
        return content_of(document, place)
    image, at = document.get(IMAGE), (*place, IMAGE)
    sent = None if image is None else SentImage(_text(image, at), at)
    # Other fields' names are the caller's text, which answers do not repeat.
    if TEXT not in document and sent is None:
        raise InvalidRequest("missing", place, f"wanted the field {TEXT}")
    text = document.get(TEXT, "")
    if text is None and sent is not None:
        text = ""
    if not isinstance(text, str):
        raise InvalidRequest("type_error", place, f"wanted a text as the field {TEXT}")
    return Parts(text, sent)


def content_of(document: Mapping[str, Any], place: Place, between: str = "\n") -> Parts:
    """vLLM's `content` of the document or message at `place`: a text, or a list of parts of the
    types text and image_url, with one image at most. `between` joins several texts, lines by
    default. Raises InvalidRequest."""
    content, place = document.get(CONTENT), (*place, CONTENT)
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
            message = "found several images here, wanted one"
            raise InvalidRequest("value_error", found.place, message)
        else:
            image = found
    return Parts(between.join(texts), image)


def refuse_settings(**given: Mapping[str, Any] | None) -> None:
    """Raise InvalidRequest for a request's own settings of its images, by their fields' names."""
    for name, settings in given.items():
        if settings:
            message = "images are read and cut as the model's own files say; leave it out"
            raise InvalidRequest("value_error", (name,), message)


def _shows_image(content: object) -> bool:
    return isinstance(content, list) and any(
        isinstance(part, dict) and "image_url" in part for part in content[:_MOST_PARTS]
    )


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
