"""Images among the inputs of the embedding NIM: data URLs in texts, as `modality` says.

An input is a text, an image, or both in one string: `{text}\\n{data URL}` as NeMo Retriever joins
them, or a text with an img tag. The NIM does not say which separators it takes; here the first data
URL is the image, with the tag around it and one blank between it and the text.
"""

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

from runtime.postprocess import InputType
from server.call import Call, Field, Place
from server.characters import WIDEST
from server.errors import InvalidRequest
from server.fields import one_of
from server.images import SentImage
from server.surfaces.parts import Parts
from server.time_slices import SLICE_BYTES, Pace

Modality = Literal["text", "image", "text_image"]
_MODALITIES: tuple[Modality, ...] = get_args(Modality)

_FIELD = "modality"
_TEXT_ONLY = "this model embeds text, and this is an image; send modality text if it is text"
_NO_QUERY = "an image is no query; send input_type passage, or modality text if it is text"
_OWN_WORDS = "objects and messages say themselves what they are; leave it out"
_SETTINGS = r"(?:;\s?[^\s;,\"'<>()]{1,64}){0,4};base64,"
_URL = re.compile(rf"data:image/[\w.+-]{{1,64}}{_SETTINGS}", re.IGNORECASE)
# Where the caller says that there is an image, its URL may name another type, or none.
_ANY_URL = re.compile(rf"data:(?:[\w.+-]{{1,64}}/[\w.+-]{{1,64}})?{_SETTINGS}", re.IGNORECASE)
# What ends a data URL, as it is neither in base64 nor among its usual mistakes.
_END = re.compile(r"[\s\"'<>()]")
# No match of the patterns above is longer.
_MOST_MATCHED = 512
# The tag around a data URL; so much before it and behind it is looked at.
_TAG_BEGIN = re.compile(r"<img\b[^<>]*?\bsrc\s*=\s*[\"']?\Z", re.IGNORECASE)
_TAG_END = re.compile(r"[\"']?[^<>]*>")
_MOST_TAG = 256


class _Split(NamedTuple):
    """An input with a data URL from `begin` to `end`, and the text around it."""

    begin: int
    end: int
    rest: str


async def images_of(
    call: Call,
    inputs: Sequence[str | Parts],
    modality: str | list[str] | None,
    at: Field,
    input_type: InputType | None,
) -> tuple[list[str], dict[int, SentImage]]:
    """The text of each of the `inputs`, the field `at`, and their images by number.

    Without a `modality`, a text has an image if the model takes images and a data URL of one is in
    it. Raises InvalidRequest, and Overloaded when the body budget has no room for the texts.
    """
    kinds = _for_each(modality, len(inputs))
    takes_images = call.service.served("embed").model.info.images
    if not takes_images and not {None, "text"}.issuperset(kinds):
        raise InvalidRequest("literal_error", (_FIELD,), "this model embeds text only")
    pace = Pace(call.service.body_budget.slices)
    found: list[Parts] = []
    for index, (one, kind) in enumerate(zip(inputs, kinds, strict=True)):
        if isinstance(one, Parts):
            if kind is not None:
                raise InvalidRequest("value_error", (_FIELD,), _OWN_WORDS)
            found.append(one)
        elif kind == "text":
            found.append(Parts(one))
        elif takes_images:
            found.append(await _parts(call, one, kind, at.place(index), pace))
        elif await _is_image(one, pace):
            raise InvalidRequest("value_error", at.place(index), _TEXT_ONLY)
        else:
            found.append(Parts(one))
    images = {index: one.image for index, one in enumerate(found) if one.image is not None}
    default_type = call.service.settings.default_input_type
    if images and takes_images and (input_type or default_type) == "query":
        raise InvalidRequest("value_error", next(iter(images.values())).place, _NO_QUERY)
    return [one.text for one in found], images


async def _parts(call: Call, text: str, kind: Modality | None, place: Place, pace: Pace) -> Parts:
    """Text and image of a text at `place` of that kind, which is not text; None is unknown."""
    split = await _split(call, text, place, pace, _URL if kind is None else _ANY_URL)
    if split is not None:
        if kind == "image" and split.rest:
            message = "found text beside the image, wanted the modality text_image"
            raise InvalidRequest("value_error", place, message)
        image = SentImage(text, place, split.begin, split.end, inferred=kind is None)
        return Parts(split.rest, image)
    if kind == "image":
        return Parts("", SentImage(text, place))
    if kind == "text_image":
        message = "found no image in this text, wanted one as data:image/png;base64,…"
        raise InvalidRequest("value_error", place, message)
    return Parts(text)


def _for_each(modality: str | list[str] | None, inputs: int) -> list[Modality | None]:
    """The modality of each input. Raises InvalidRequest."""
    given = modality if isinstance(modality, list) else [modality]
    if len(given) not in (1, inputs):
        message = f"found {len(given)} values for {inputs} inputs, wanted one, or as many"
        raise InvalidRequest("value_error", (_FIELD,), message)
    kinds = [one_of(one, _MODALITIES, _FIELD) for one in given]
    return kinds * inputs if len(kinds) == 1 else kinds


async def _is_image(text: str, pace: Pace) -> bool:
    """Whether a text is nothing but the data URL of an image."""
    url = _URL.match(text)
    return url is not None and await _search(_END, text, url.end(), pace) is None


async def _split(
    call: Call, text: str, place: Place, pace: Pace, kind: re.Pattern[str]
) -> _Split | None:
    """The parts of a text with a data URL of that `kind`; None without one. Raises InvalidRequest
    for several."""
    url = await _search(kind, text, 0, pace)
    if url is None:
        return None
    begin, stop = url.start(), await _search(_END, text, url.end(), pace)
    end = len(text) if stop is None else stop.start()
    call.reserve((len(text) - (end - begin)) * WIDEST)
    rest = _around(text, begin, end)
    if await _search(_URL, rest, 0, pace):
        message = "found several images in one input, wanted one"
        raise InvalidRequest("value_error", place, message)
    return _Split(begin, end, rest)


async def _search(
    pattern: re.Pattern[str], text: str, begin: int, pace: Pace
) -> re.Match[str] | None:
    """`pattern.search` from `begin` on, in time slices."""
    while begin < len(text):
        await pace.step(min(SLICE_BYTES, len(text) - begin))
        if found := pattern.search(text, begin, begin + SLICE_BYTES + _MOST_MATCHED):
            return found
        begin += SLICE_BYTES
    return None


def _around(text: str, begin: int, end: int) -> str:
    """The text without the data URL, the tag around it, and one blank; empty if it is blank."""
    first = max(0, begin - _MOST_TAG)
    opened = _TAG_BEGIN.search(text[first:begin])
    closed = _TAG_END.match(text, end, end + _MOST_TAG)
    if opened and closed:
        begin, end = first + opened.start(), closed.end()
    before, behind = text[:begin], text[end:]
    if before[-1:].isspace():
        before = before[:-1]
    elif not before and behind[:1].isspace():
        behind = behind[1:]
    rest = before + behind
    return "" if rest.isspace() else rest
