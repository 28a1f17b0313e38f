"""Files of every kind, whole and broken: each is taken or refused by one rule."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from runtime.errors import ImageTooLarge, InvalidImage, TextPlace
from runtime.vision.decoding import FORMATS, MOST_SIDE, open_image
from runtime.vision.limits import ImageLimits
from tests.tiny_vision import encoded, png

RED = (200, 30, 40)


def decoded(data: bytes) -> np.ndarray:
    return np.asarray(open_image(data, TextPlace("passages", 0, "image")).decode())


def plain(mode: str = "RGB", color: object = RED) -> Image.Image:
    return Image.new(mode, (8, 6), color)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", FORMATS)
def test_six_formats_are_read(kind: str) -> None:
    found = decoded(encoded(plain(), kind))
    assert found.shape == (6, 8, 3)
    assert np.abs(found.astype(int) - RED).max() <= 8  # two of them lose something


@pytest.mark.parametrize("kind", ["PPM", "TGA", "ICO", "PCX", "SGI"])
def test_others_are_not(kind: str) -> None:
    with pytest.raises(InvalidImage, match=r"passages\[0\]\.image cannot be read as an image"):
        open_image(encoded(plain(), kind), TextPlace("passages", 0, "image"))


@pytest.mark.parametrize(
    "data",
    [b"", b"\x00", b"hello", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"<svg/>", b"\xff\xd8\xff", b"RIFF"],
)
def test_what_is_no_image_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidImage):
        decoded(data)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_truncated_file_is_refused(kind: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    data = encoded(Image.fromarray(noise), kind)
    with pytest.raises(InvalidImage):
        decoded(data[: int(share * len(data))])


def test_a_refusal_never_repeats_bytes_of_the_file() -> None:
    with pytest.raises(InvalidImage) as error:
        decoded(b"GIF89a" + b"\x08\x00\x08\x00secret-text" * 20)
    assert "secret" not in str(error.value)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_claiming(width: int, height: int, rows: int = 1) -> bytes:
    """A PNG whose header says one size, and whose data has other rows."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(b"\x00" * (1 + 3 * min(width, 100)) * rows)
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


@pytest.mark.parametrize("size", [(10_000, 10_000), (60_000, 60_000), (2**31 - 1, 2**31 - 1)])
def test_a_bomb_is_refused_by_its_header(size: tuple[int, int]) -> None:
    with pytest.raises(ImageTooLarge, match="wanted at most 50000000 pixels"):
        open_image(png_claiming(*size), TextPlace("input", 0))


def test_a_side_is_bounded_too() -> None:
    open_image(png_claiming(MOST_SIDE, 1), TextPlace("input", 0))
    with pytest.raises(ImageTooLarge, match="65535 pixels on a side"):
        open_image(png_claiming(MOST_SIDE + 1, 1), TextPlace("input", 0))


def test_a_header_that_lies_decides_the_size() -> None:
    few, many = png_claiming(100, 90, rows=3), png_claiming(100, 3, rows=100)
    assert decoded(few).shape == (90, 100, 3)  # what is missing is black
    assert decoded(many).shape == (3, 100, 3)  # the rest is not read


def test_no_pixels_are_no_image() -> None:
    with pytest.raises(InvalidImage):
        decoded(png_claiming(0, 5))


def test_limits_are_whoever_serves_s() -> None:
    data = png(40, 30)
    open_image(data, TextPlace("input", 0), ImageLimits(len(data), 1200))
    with pytest.raises(ImageTooLarge, match=f"{len(data)} bytes, wanted at most {len(data) - 1}"):
        open_image(data, TextPlace("input", 0), ImageLimits(len(data) - 1, 1200))
    with pytest.raises(ImageTooLarge, match="40 × 30 pixels, wanted at most 1199 pixels"):
        open_image(data, TextPlace("input", 0), ImageLimits(len(data), 1199))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_several_frames_the_first_is_taken(kind: str) -> None:
    frames = [plain(color=(0, 0, 250)), plain(), plain(color=(0, 250, 0))]
    options = {"lossless": True} if kind == "WEBP" else {}
    found = decoded(encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options))
    assert np.array_equal(found, np.asarray(frames[0]))


@pytest.mark.parametrize(
    ("kind", "shape"), [("JPEG", (6, 8, 3)), ("PNG", (6, 8, 3)), ("TIFF", (8, 6, 3))]
)
def test_exif_turns_no_image_but_a_tiff(kind: str, shape: tuple[int, ...]) -> None:
    """Which Pillow turns itself, for upstream as well."""
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by a quarter
    assert decoded(encoded(plain(), kind, exif=exif)).shape == shape


def test_16_bit_greys_are_rounded_and_their_transparent_value_is_white() -> None:
    wide = np.array([[0, 128, 129, 1000, 65_535]], np.uint16)
    found = decoded(encoded(Image.fromarray(wide), "PNG", transparency=1000))
    assert found[0, :, 0].tolist() == [0, 0, 1, 255, 255]


@pytest.mark.parametrize(
    ("image", "wanted"),
    [
        (plain("RGBA", (*RED, 255)), RED),
        (plain("RGBA", (*RED, 0)), (255, 255, 255)),
        (plain("RGBA", (0, 0, 0, 51)), (204, 204, 204)),
        (plain("LA", (0, 51)), (204, 204, 204)),
        (plain("L", 77), (77, 77, 77)),
        (plain("1", 1), (255, 255, 255)),
        (plain().convert("P", palette=Image.Palette.ADAPTIVE), RED),
    ],
    ids=["opaque", "transparent", "a fifth", "grey and alpha", "grey", "bits", "palette"],
)
def test_every_mode_becomes_rgb_on_white(image: Image.Image, wanted: tuple[int, ...]) -> None:
    assert np.array_equal(np.unique(decoded(encoded(image)).reshape(-1, 3), axis=0), [wanted])


def test_one_transparent_color_of_a_palette_or_of_plain_pixels_is_white() -> None:
    palette = plain("P", 0)
    palette.putpalette([*RED, 0, 0, 0])
    assert (decoded(encoded(palette, transparency=0)) == 255).all()
    assert (decoded(encoded(plain(), transparency=RED)) == 255).all()
    assert (decoded(encoded(plain("L", 9), transparency=9)) == 255).all()


def test_cmyk_is_read() -> None:
    assert (decoded(encoded(plain("CMYK", (0, 0, 0, 0)), "TIFF")) == 255).all()


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_greys_of_16_bits_are_rounded_to_8(kind: str) -> None:
    wide = np.array([[0, 128, 129, 257, 32_768, 65_535]], np.uint16)
    found = decoded(encoded(Image.fromarray(wide), kind))
    assert found[0, :, 0].tolist() == [0, 0, 1, 1, 128, 255]


def test_a_palette_is_converted_before_it_is_resized() -> None:
    stripes = Image.new("P", (200, 200))
    stripes.putpalette([0, 0, 0, 255, 255, 255])
    stripes.putdata([x // 3 % 2 for _ in range(200) for x in range(200)])
    image = open_image(encoded(stripes), TextPlace("input", 0)).decode().resize((96, 96))
    assert len(np.unique(np.asarray(image))) > 2  # resized as a palette it would have two colours


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pixels_of_32_bits_have_no_rule(mode: str) -> None:
    with pytest.raises(InvalidImage, match=f"of the kind {mode}"):
        decoded(encoded(Image.new(mode, (4, 4)), "TIFF"))
