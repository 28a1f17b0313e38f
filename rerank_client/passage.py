"""Documents with images: how a caller gives them, and what is sent of them.

An image is sent as the data URL of its file, the one form that all servers take. Its first bytes
say which kind of file it is; whether it can be read to its end is for the server to say.
"""

import base64
import os
import stat
import sys
from collections.abc import Mapping
from io import BytesIO
from typing import Any, BinaryIO, NamedTuple, Protocol, TypeAlias, TypedDict, TypeGuard

from rerank_client.errors import RerankError


class Picture(Protocol):
    """A PIL image, as far as it is used; this distribution does not depend on Pillow."""

    @property
    def mode(self) -> str: ...

    def convert(self, mode: str, /) -> "Picture": ...

    def save(self, file: BinaryIO, kind: str, /) -> object: ...


Image: TypeAlias = "str | os.PathLike[str] | bytes | Picture"


class Passage(TypedDict, total=False):
    """A document for a model that takes images: a text, an image, or both.

    `image` is the path of a file, the bytes of one, or a PIL image, which is sent as PNG. A file is
    PNG, JPEG, WebP, GIF, BMP or TIFF.
    """

    text: str
    image: Image


_WANTED = "PNG, JPEG, WebP, GIF, BMP or TIFF"
_MAGIC = {
    "png": (b"\x89PNG\r\n\x1a\n",),
    "jpeg": (b"\xff\xd8\xff",),
    "gif": (b"GIF87a", b"GIF89a"),
    "bmp": (b"BM",),
    "tiff": (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
}
# Four bytes between them are the file's length.
_RIFF, _WEBP = b"RIFF", b"WEBP"
_HEAD_BYTES = 12
_MOST_SHOWN = 200
# A PNG holds pixels of these modes, those of the next ones as another mode, and others as RGB.
_PNG_MODES = {"1", "L", "LA", "I;16", "P", "RGB", "RGBA"}
_MODES = {"I": "I;16", "La": "LA", "PA": "RGBA", "RGBa": "RGBA"}


class Illustrated(NamedTuple):
    """A passage with an image; a path is a str."""

    text: str
    image: Image

    def sendable(self, place: str) -> dict[str, str]:
        """The fields of it in a request: the text unless it is empty, and the image as a data URL.

        Reads the image. Raises RerankError for one that cannot be read, and for what is none.
        """
        place = f"{place}.image"
        file = _file(self.image, place)
        kind = _kind(file)
        if kind is None:
            raise RerankError(f"{place} is not an image: wanted a file of {_WANTED}")
        url = f"data:image/{kind};base64,{base64.b64encode(file).decode('ascii')}"
        # A NIM wants no text beside an image rather than an empty one.
        return {"text": self.text, "image": url} if self.text else {"image": url}


def checked(given: Mapping[Any, Any], place: str) -> str | Illustrated:
    """The passage at `place` of a call's arguments, without an image its text. Its image is not
    read yet. Raises TypeError or ValueError."""
    if unknown := [name for name in given if name not in Passage.__annotations__]:
        raise ValueError(f"{place} has a field {unknown[0]!r}, wanted text, image or both")
    if not given:
        raise ValueError(f"{place} has no field, wanted text, image or both")
    text = given.get("text", "")
    if not isinstance(text, str):
        raise TypeError(f"{place}.text is a {type(text).__name__}, wanted a str")
    text = str.__str__(text)
    if "image" not in given:
        return text
    return Illustrated(text, _checked_image(given["image"], f"{place}.image"))


def _checked_image(given: object, place: str) -> Image:
    if isinstance(given, bytes) or _is_picture(given):
        return given
    if not isinstance(given, (str, os.PathLike)):
        raise TypeError(
            f"{place} is a {type(given).__name__}, wanted a path, a file's bytes or a PIL image"
        )
    path = os.fsdecode(given)
    if path.startswith("data:") or "://" in path:
        raise ValueError(f"{place} is an address, wanted a path, a file's bytes or a PIL image")
    return path


def _is_picture(given: object) -> TypeGuard[Picture]:
    # Whoever has a PIL image has imported it.
    pillow = sys.modules.get("PIL.Image")
    return pillow is not None and isinstance(given, pillow.Image)


def _file(image: Image, place: str) -> bytes:
    if isinstance(image, bytes):
        return image
    if isinstance(image, (str, os.PathLike)):
        return _read(os.fspath(image), place)
    file = BytesIO()
    try:
        if image.mode not in _PNG_MODES:
            image = image.convert(_MODES.get(image.mode, "RGB"))
        image.save(file, "PNG")
    except Exception as error:  # of Pillow's decoders, which read the pixels only now
        raise RerankError(f"{place} cannot be written as PNG: {error}") from error
    return file.getvalue()


def _read(path: str, place: str) -> bytes:
    try:
        # Opening a pipe would wait for its writer.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise RerankError(f"{place} is not a file: {_shown(path)}")
        with open(path, "rb") as file:
            head = file.read(_HEAD_BYTES)
            # Of what is no image, nothing more is read.
            return head + file.read() if _kind(head) else head
    except (OSError, ValueError) as error:  # ValueError: a path that no system can have
        reason = getattr(error, "strerror", None) or error
        raise RerankError(f"{place} cannot be read: {_shown(path)}: {reason}") from error


def _shown(path: str) -> str:
    """A path for a message; a file's content that was taken for one may have megabytes."""
    if len(path) <= _MOST_SHOWN:
        return path
    return f"{path[:_MOST_SHOWN]}… ({len(path)} characters; base64 is no path: pass the bytes)"


def _kind(file: bytes) -> str | None:
    """The subtype in the media type of such a file; None if it is not an image."""
    if file.startswith(_RIFF) and file[8:_HEAD_BYTES] == _WEBP:
        return "webp"
    return next((kind for kind, magic in _MAGIC.items() if file.startswith(magic)), None)
