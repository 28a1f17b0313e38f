"""Images of a corpus: checked when the corpus is read, and read again when they are needed.

A row has an image as "image": the path of a file in the corpus' folder, a data URL, or base64
alone. What is kept of it is where it stands, so that a corpus may have more images than memory.
"""

import binascii
import hashlib
from collections.abc import Sequence
from pathlib import Path

import msgspec

from recipe.data.files import Place, line_at
from recipe.errors import BadInput
from runtime.errors import ImageRejected, TextPlace
from runtime.model_files import read_file
from runtime.requests import Passage
from runtime.vision import naming_pillow
from runtime.vision.limits import DEFAULT_LIMITS
from runtime.vision.rule import Size

_DATA = "data:"
_ENDING = ";base64"
_SHOWN = 60
# How the files begin that can be read.
_BEGINNINGS = (
    *(b"\x89PNG\r\n", b"\xff\xd8\xff", b"RIFF", b"GIF8", b"BM"),
    *(b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
)
# Base64 of their longest beginning.
_BEGINNING_CHARACTERS = 8


class _Illustrated(msgspec.Struct):
    image: str


class RowImage(msgspec.Struct, frozen=True):
    """The image of one row: the file `name` in `folder`, or (None) base64 in the line of the file
    `corpus` there that begins at `place`. `row` names it in messages, `size` is (width,
    height), `file_bytes` and `digest` (sha256, in hexadecimal digits) are those of its file."""

    folder: str
    corpus: str
    place: Place
    row: str
    name: str | None
    size: Size
    file_bytes: int
    digest: str

    def read(self) -> bytes:
        """The bytes of its file. Raises BadInput where they have changed or gone."""
        content = self._content()
        if hashlib.sha256(content).hexdigest() != self.digest:
            raise BadInput(f"{self.row}: the image has changed since it was checked; run again")
        return content

    def decode(self) -> None:
        """Look at every pixel. Raises BadInput for a file that is damaged behind its head."""
        from runtime.vision.decoding import open_image  # late: needs Pillow

        try:
            open_image(self.read(), TextPlace(self.row)).decode()
        except ImageRejected as error:
            raise _broken(self.row, error) from error

    def _content(self) -> bytes:
        if self.name is not None:
            return _file(self.row, Path(self.folder), self.name)
        line = line_at(Path(self.folder, self.corpus), self.place)
        return _decoded(self.row, msgspec.json.decode(line, type=_Illustrated).image)


class ImageText(msgspec.Struct, frozen=True):
    """A text, which may be empty, beside an image."""

    text: str
    image: RowImage

    def passage(self) -> Passage:
        """With the content of the image. Raises BadInput."""
        return Passage(self.text, self.image.read())


# What a corpus has under an id.
Document = str | ImageText


def text_of(document: Document) -> str:
    """The text alone."""
    return document if isinstance(document, str) else document.text


def passages(documents: Sequence[Document]) -> list[str | Passage]:
    """With the content of all their images. Raises BadInput."""
    return [one if isinstance(one, str) else one.passage() for one in documents]


def find_image(file: Path, place: Place, number: int, written: str) -> RowImage:
    """The image that line `number` of the corpus `file`, which begins at `place`, names as
    `written`; its header is read. Raises BadInput, or EngineUnavailable without Pillow."""
    with naming_pillow():
        from runtime.vision.decoding import open_image  # late, as above
    row = f"{file.name}, line {number}"
    inline = written.startswith(_DATA) or _beginning(written).startswith(_BEGINNINGS)
    content = _decoded(row, written) if inline else _file(row, file.parent, written)
    try:
        size = open_image(content, TextPlace(row)).size
    except ImageRejected as error:
        raise _broken(row, error) from error
    return RowImage(
        folder=str(file.parent),
        corpus=file.name,
        place=place,
        row=row,
        name=None if inline else written,
        size=size,
        file_bytes=len(content),
        digest=hashlib.sha256(content).hexdigest(),
    )


def _beginning(written: str) -> bytes:
    """The first bytes, if it is base64."""
    try:
        return binascii.a2b_base64(written[:_BEGINNING_CHARACTERS], strict_mode=True)
    except ValueError:
        return b""


def _decoded(row: str, written: str) -> bytes:
    encoded = written
    if written.startswith(_DATA):
        head, _, encoded = written.partition(",")
        if not head.endswith(_ENDING):
            raise BadInput(
                f"{row}: the image is a data URL of another encoding; wanted "
                "data:image/png;base64,…"
            )
    try:
        return binascii.a2b_base64(encoded, strict_mode=True)
    except ValueError as error:
        raise BadInput(
            f"{row}: the image is no base64 ({error}); wanted A-Z, a-z, 0-9, + and /, with = at "
            "the end and without line breaks"
        ) from error


def _file(row: str, folder: Path, name: str) -> bytes:
    shown = repr(name if len(name) <= _SHOWN else f"{name[:_SHOWN]}…")
    wanted = (
        f"wanted the path of a file in {folder}, such as images/1.png, a data URL, or base64 of a "
        "PNG, JPEG, WebP, GIF, BMP or TIFF file"
    )
    if "://" in name:
        raise BadInput(f"{row}: the image {shown} is an address, and nothing is fetched; {wanted}")
    try:
        return read_file(folder, name, DEFAULT_LIMITS.bytes)
    except FileNotFoundError as error:
        raise BadInput(f"{row}: found no image {shown} in {folder}; {wanted}") from error
    except OSError as error:
        raise BadInput(f"{row}: the image {shown}: {error.strerror}; {wanted}") from error


def _broken(row: str, error: ImageRejected) -> BadInput:
    return BadInput(f"{row}: the image {error.complaint}")
