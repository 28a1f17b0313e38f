"""From the bytes of a file to an RGB image, within limits. What is no image, or too large, is
refused before its pixels take memory; so is a file that ends before its image does.

One rule for each case, whatever the format: the first frame of an animation and the first page of
several; pixels as Pillow reads them (it applies the orientation of a TIFF and of no other file, as
upstream does, and no colour profile); transparency on white; palettes and 16-bit greys become 8-bit
colours before anything is resized. Upstream resizes first: there a palette is resized without
interpolation, hidden colours show through, and 16-bit greys turn white. A header decides the size,
even where a whole file holds more pixels, which are not read, or fewer, of which decoders make up
the rest.
"""

from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from runtime.errors import ImageTooLarge, InvalidImage, TextPlace
from runtime.vision.limits import DEFAULT_LIMITS, ImageLimits
from runtime.vision.rule import Size

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
# Resizing a side keeps some 32 bytes for each of its pixels; no JPEG is longer.
MOST_SIDE = 65_535
_WHITE = (255, 255, 255)
_GREY_16 = ("I;16", "I;16L", "I;16B", "I;16N")
_GREY_8 = ((np.arange(1 << 16, dtype=np.uint32) * 255 + 32_767) // 65_535).astype(np.uint8)
_EIGHT_BIT = ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV")
_WITH_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")


@dataclass(frozen=True)
class ImageFile:
    """A file whose header was read: `what` names it in messages, `size` is (width, height)."""

    place: TextPlace
    size: Size
    _opened: Image.Image

    def decode(self) -> Image.Image:
        """The image in RGB; may be called once. Raises InvalidImage."""
        opened = self._opened
        try:
            opened.load()
            if opened.size != self.size:
                raise InvalidImage(
                    self.place, f"its header says {_by(self.size)}, its data {_by(opened.size)}"
                )
            return _rgb(self.place, opened)
        except InvalidImage:
            raise
        except Exception as error:  # Pillow's decoders raise many unrelated classes
            raise InvalidImage(self.place, _reason(error)) from error
        finally:
            opened.close()  # the pixels, too; leaving a `with` block would keep them


def open_image(data: bytes, place: TextPlace, limits: ImageLimits = DEFAULT_LIMITS) -> ImageFile:
    """Read the header of a file. Raises InvalidImage and ImageTooLarge."""
    if len(data) > limits.bytes:
        raise ImageTooLarge(place, f"{len(data)} bytes", f"{limits.bytes} bytes")
    try:
        opened = Image.open(BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageTooLarge(place, "a header of vast size", f"{limits.pixels} pixels") from error
    except UnidentifiedImageError as error:
        raise InvalidImage(place, "it has the beginning of none of them") from error
    except Exception as error:  # as in decode
        raise InvalidImage(place, _reason(error)) from error
    width, height = opened.size
    if width * height > limits.pixels:
        raise ImageTooLarge(place, f"{_by(opened.size)} pixels", f"{limits.pixels} pixels")
    if max(width, height) > MOST_SIDE:
        raise ImageTooLarge(place, f"{_by(opened.size)} pixels", f"{MOST_SIDE} pixels on a side")
    if not width * height:
        raise InvalidImage(place, "it has no pixels")
    return ImageFile(place, (width, height), opened)


def _rgb(place: TextPlace, image: Image.Image) -> Image.Image:
    if image.mode in _GREY_16:
        return _from_16_bit(image)
    if image.mode in _WITH_ALPHA or "transparency" in image.info:
        seen = image if image.mode == "RGBA" else image.convert("RGBA")
        white = Image.new("RGB", image.size, _WHITE)
        white.paste(seen, mask=seen.getchannel("A"))
        return white
    if image.mode not in _EIGHT_BIT:
        raise InvalidImage(place, f"its pixels are of the kind {image.mode}")
    return image.convert("RGB")


def _from_16_bit(image: Image.Image) -> Image.Image:
    """Greys of 16 bits in 8, rounded; one value may stand for what is transparent."""
    wide = np.asarray(image)
    grey = _GREY_8[wide]
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey[wide == transparent] = 255
    return Image.fromarray(grey).convert("RGB")


def _by(size: Size) -> str:
    return f"{size[0]} × {size[1]}"


def _reason(error: Exception) -> str:
    """Pillow's own words, of which some hold bytes of the file."""
    told = str(error)
    return told if told.isascii() and told.isprintable() and len(told) <= 100 else "it is damaged"
