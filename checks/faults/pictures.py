"""Images that explode, lie about their size or are odd, and base64 of wrong alphabets.

Each is made when it is asked for. What a server should make of it stands beside it: a refusal, or
the score of another image, which has the same pixels in plain RGB.
"""

import base64
import itertools
import struct
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _RGB = 0, 2
_MIB = 1 << 20
Make = Callable[[], bytes]


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of(width: int, height: int, data: bytes, *others: bytes, color: int = _RGB) -> bytes:
    """A PNG whose header says this size, with compressed `data` and `others` of its chunks."""
    head = struct.pack(">IIBBBBB", width, height, 8, color, 0, 0, 0)
    parts = (chunk(b"IHDR", head), *others, chunk(b"IDAT", data), chunk(b"IEND", b""))
    return _SIGNATURE + b"".join(parts)


def zeros(count: int) -> bytes:
    """So many zeros, compressed."""
    packer, block = zlib.compressobj(9), bytes(_MIB)
    parts = [packer.compress(block) for _ in range(count // _MIB)]
    return b"".join((*parts, packer.compress(bytes(count % _MIB)), packer.flush()))


def black(side: int) -> bytes:
    """A whole grey PNG of side × side pixels in a thousandth of their bytes."""
    return png_of(side, side, zeros(side * (side + 1)), color=_GREY)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """The bytes of a file."""
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def page(seed: int, width: int = 90, height: int = 60) -> Image.Image:
    """Boxes and gradients of a seed's own colours."""
    random = np.random.default_rng(seed)
    x, y = np.linspace(0, 1, width), np.linspace(0, 1, height)[:, None]
    a, b, c = random.uniform(0.2, 1, 3)
    channels = [x * a + 0 * y, y * b + 0 * x, (x + y) / 2 * c]
    image = Image.fromarray((np.stack(channels, axis=-1) * 255).astype(np.uint8))
    for left, top, *color in random.integers(0, 256, (6, 5)).tolist():
        image.paste(tuple(color), (left % width, top % height, width, min(height, top + 9)))
    return image


def picture(seed: int = 0, width: int = 90, height: int = 60) -> bytes:
    """`page` as a PNG."""
    return encoded(page(seed, width, height))


@cache
def _large(side: int) -> bytes:
    small = page(0).resize((side // 100, side // 100))
    return encoded(small.resize((side, side), Image.Resampling.NEAREST), "JPEG", quality=60)


def large(seed: int, side: int) -> bytes:
    """A legal JPEG of many pixels, whose decoding takes its time; another file for each seed."""
    return _large(side) + struct.pack("<Q", seed)


def _jpeg_of(width: int, height: int) -> bytes:
    """A small JPEG whose frame header claims another size."""
    file = encoded(page(0), "JPEG")
    place = file.index(b"\xff\xc0") + 5
    return file[:place] + struct.pack(">HH", height, width) + file[place + 4 :]


def _bmp_of(width: int, height: int) -> bytes:
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + head + bytes(64)


def _tiff_of(width: int, height: int) -> bytes:
    tags = ((256, width), (257, height), (258, 8), (259, 1), (262, 1), (273, 8), (279, 64))
    fields = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<I", 72) + bytes(64) + struct.pack("<H", 7) + fields + bytes(4)


def _webp_of(width: int, height: int) -> bytes:
    canvas = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    body = b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + canvas
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _half(kind: str) -> bytes:
    file = encoded(page(0, 400, 300), kind)
    return file[: len(file) // 2]


REFUSED: dict[str, Make] = {
    "a PNG that claims 60000 × 60000": lambda: png_of(60_000, 60_000, zeros(100)),
    "a PNG that claims 2³¹ × 2³¹": lambda: png_of(2**31 - 1, 2**31 - 1, zeros(100)),
    "a whole PNG of 8000 × 8000 in 64 KB": lambda: black(8000),
    "a JPEG that claims 65000 × 65000": lambda: _jpeg_of(65_000, 65_000),
    "a GIF that claims 65535 × 65535": lambda: b"GIF89a" + b"\xff" * 4 + bytes(3) + b";",
    "a BMP that claims 40000 × 40000": lambda: _bmp_of(40_000, 40_000),
    "a BMP of 7000 × 7000 without pixels": lambda: _bmp_of(7000, 7000),
    "a TIFF that claims 10⁶ × 10⁶": lambda: _tiff_of(10**6, 10**6),
    "a WebP that claims 16384 × 16384": lambda: _webp_of(16_384, 16_384),
    "half a PNG": lambda: _half("PNG"),
    "half a JPEG": lambda: _half("JPEG"),
    "half a WebP": lambda: _half("WEBP"),
    "half a TIFF": lambda: _half("TIFF"),
    "a PNG of no pixels": lambda: png_of(0, 0, zeros(1)),
    "a PDF": lambda: encoded(page(0), "PDF"),
    "PostScript": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) run\n",
    "SVG": lambda: b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/x"/></svg>',
    "an icon": lambda: encoded(page(0), "ICO"),
    "a picture of floats": lambda: encoded(Image.new("F", (9, 9)), "TIFF"),
    "one byte": lambda: b"\x89",
}
# Without a rule of their own: any answer but a fault of the server.
ODD: dict[str, Make] = {
    "a PNG whose text inflates to 256 MiB": lambda: png_of(
        9, 9, zeros(9 * 28), chunk(b"zTXt", b"k\0\0" + zeros(256 * _MIB))
    ),
    "a PNG whose profile inflates to 256 MiB": lambda: png_of(
        9, 9, zeros(9 * 28), chunk(b"iCCP", b"k\0\0" + zeros(256 * _MIB))
    ),
    "a PNG of fewer rows than its header says": lambda: png_of(900, 900, zeros(3 * 2701)),
    "a PNG of more rows than its header says": lambda: png_of(9, 9, zeros(16 * _MIB)),
    "a JPEG of fewer rows than its header says": lambda: _jpeg_of(90, 3000),
    "a JPEG of more rows than its header says": lambda: _jpeg_of(90, 8),
    "a JPEG with rubbish in its scan": lambda: _spoiled("JPEG"),
    "a PNG with rubbish in its data": lambda: _spoiled("PNG"),
}


def _spoiled(kind: str) -> bytes:
    file = bytearray(encoded(page(0), kind))
    for place in range(len(file) // 2, len(file), 7):
        file[place] ^= 0x5A
    return bytes(file)


def plain_and_odd() -> Iterator[tuple[str, bytes, bytes]]:
    """Name, an unusual file, and a PNG in RGB with the same pixels."""
    base = page(1)
    frames = {"save_all": True, "append_images": [page(2), page(3)]}
    palette = base.quantize(16)
    for kind in ("PNG", "GIF"):
        yield f"a palette in {kind}", encoded(palette, kind), encoded(palette.convert("RGB"))
    yield "an animated GIF", encoded(palette, "GIF", **frames), encoded(palette.convert("RGB"))
    yield "an animated PNG", encoded(base, "PNG", **frames), encoded(base)
    yield "an animated WebP", encoded(base, "WEBP", lossless=True, **frames), encoded(base)
    yield "a TIFF of three pages", encoded(base, "TIFF", **frames), encoded(base)
    grey = base.convert("L")
    wide = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    for kind in ("PNG", "TIFF"):
        yield f"16 bits in {kind}", encoded(wide, kind), encoded(grey.convert("RGB"))
    inks = base.convert("CMYK")
    yield "CMYK in TIFF", encoded(inks, "TIFF"), encoded(inks.convert("RGB"))
    printed = encoded(inks, "JPEG", quality=95)
    with Image.open(BytesIO(printed)) as opened:
        yield "CMYK in JPEG", printed, encoded(opened.convert("RGB"))
    veiled = base.convert("RGBA")
    veiled.putalpha(0)
    yield "a transparent PNG", encoded(veiled), encoded(Image.new("RGB", base.size, "white"))
    turned = Image.Exif()
    turned[0x0112] = 6
    shown, stored = (encoded(base, "JPEG", **more) for more in ({"exif": turned}, {}))
    yield "a JPEG to be shown turned", shown, stored


def of_every_character() -> bytes:
    """A picture whose base64 has all characters in which alphabets differ."""
    files = map(picture, itertools.count())
    return next(file for file in files if {"+", "/", "="} <= set(base64_of(file)))


def base64_of(file: bytes) -> str:
    """As it is sent."""
    return base64.b64encode(file).decode()


def wrongly_encoded(file: bytes) -> dict[str, str]:
    """Name → how clients might send `file`, whose base64 has a +, a / and a =."""
    right = base64_of(file)
    lines = "\n".join(right[at : at + 76] for at in range(0, len(right), 76))
    return {
        "the alphabet for URLs": right.replace("+", "-").replace("/", "_"),
        "percent-encoded": right.replace("+", "%2B").replace("/", "%2F"),
        "+ as a blank": right.replace("+", " "),
        "in lines": lines,
        "blanks around it": f" {right} ",
        "without its padding": right.rstrip("="),
        "padding in its midst": right[:8] + "====" + right[8:],
        "one character too many": right + "A",
        "twice a data URL": f"data:image/png;base64,data:image/png;base64,{right}",
        "hexadecimal": file.hex() + "z",
        "a data URL without base64": f"data:image/png,{right}",
        "wide letters": right.translate({ord("A"): "\uff21"}),
        "nothing": "data:image/png;base64,",
    }


def rightly_encoded(file: bytes) -> dict[str, str]:
    """Name → how clients of NVIDIA's models send `file`, whatever they call it."""
    right = base64_of(file)
    return {
        "a data URL": f"data:image/png;base64,{right}",
        "with a charset": f"data:image/png;charset=utf-8;base64,{right}",
        "bare": right,
        "called a JPEG": f"data:image/jpeg;base64,{right}",
        "called a text": f"data:text/plain;base64,{right}",
        "called nothing": f"data:;base64,{right}",
    }
