"""Images as callers send them: base64 in a body, bare or in a data URL.

Nothing is ever fetched, so an address is refused. The bytes say what kind of file it is, not what
a data URL says of them; the model's runtime reads them.
"""

import binascii
import re
from collections.abc import Sequence
from io import BytesIO
from typing import NamedTuple

from server.errors import InvalidRequest
from server.time_slices import SLICE_BYTES, Pace, TimeSlices

_BASE64 = "A-Z, a-z, 0-9, + and /, = at the end"
_WANTED = "send the file itself, as data:image/png;base64,… or as base64 alone"
# The longest head of a data URL, and the longest scheme of any other, that are looked for.
_MOST_HEAD = 256
_SCHEME = re.compile(r"\s*([A-Za-z][A-Za-z0-9+.-]{0,30}):")
_DATA = "data"
_GROUP = 4


class SentImage(NamedTuple):
    """An image in a body: the part of `text` from `begin` to `end` (None: all of the rest) is
    base64, or a data URL; `place` is the path to it. It may be `inferred` from a text's words."""

    text: str
    place: tuple[str | int, ...]
    begin: int = 0
    end: int | None = None
    inferred: bool = False

    def base64(self, most_bytes: int) -> "Base64":
        """Its base64. Raises InvalidRequest for an address, another encoding, and a file that is
        empty or has more than `most_bytes` bytes."""
        end = len(self.text) if self.end is None else self.end
        head = self.text[self.begin : min(end, self.begin + _MOST_HEAD)]
        begin = self.begin
        if scheme := _SCHEME.match(head):
            if scheme[1].lower() != _DATA:
                raise self.wrong(f"is an address, and nothing is fetched here; {_WANTED}")
            head, comma, _ = head.partition(",")
            if not comma or not head.lower().endswith(";base64"):
                raise self.wrong(f"is a data URL of another encoding; {_WANTED}")
            begin += len(head) + 1
        if begin == end:
            raise self.wrong("is empty; send the whole file")
        found = Base64(self, begin, end)
        if found.size > most_bytes:
            raise self.wrong(
                f"has {found.size} bytes, wanted at most {most_bytes}; send a smaller file, or "
                "raise NIM_MAX_IMAGE_BYTES on the server"
            )
        return found

    def wrong(self, complaint: str) -> InvalidRequest:
        """An error about this image."""
        hint = "; send modality text if it is text" if self.inferred else ""
        return InvalidRequest("value_error", self.place, f"this image {complaint}{hint}")


class Base64(NamedTuple):
    """The base64 of an image, from `begin` to `end` of its text."""

    image: SentImage
    begin: int
    end: int

    @property
    def size(self) -> int:
        """The bytes that it stands for, if it is base64."""
        text, end = self.image.text, self.end
        padding = text.count("=", max(self.begin, end - 2), end)
        return (end - self.begin) // _GROUP * 3 - padding


async def decode_images(encoded: Sequence[Base64], slices: TimeSlices) -> list[bytes]:
    """The bytes of each image, decoded in time slices. Raises InvalidRequest for what is not
    base64."""
    files = []
    pace = Pace(slices)
    for image, begin, end in encoded:
        if odd := (end - begin) % _GROUP:
            message = f"{end - begin} characters, {odd} more than a multiple of {_GROUP}"
            raise _not_base64(image, message)
        file = BytesIO()  # whose value is not copied
        for first in range(begin, end, SLICE_BYTES):
            part = image.text[first : min(end, first + SLICE_BYTES)]
            await pace.step(len(part))
            try:
                file.write(binascii.a2b_base64(part, strict_mode=True))
            except ValueError:
                raise _not_base64(image, "another character, or = before the end") from None
            if part[-1] == "=" and first + len(part) < end:
                raise _not_base64(image, "= before the end")
        files.append(file.getvalue())
    return files


def _not_base64(image: SentImage, found: str) -> InvalidRequest:
    return image.wrong(f"is not base64: found {found}, wanted {_BASE64}, without line breaks")
