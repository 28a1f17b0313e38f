"""Base64 of images: what is taken, what is refused and where, and in which steps it is decoded."""

import asyncio
import base64
import random

import pytest

from runtime.errors import ImageNotAllowed, InvalidImage, TextPlace
from server.call import Field, locating_errors
from server.errors import InvalidRequest
from server.images import SentImage, decode_images
from server.time_slices import SLICE_BYTES, TimeSlices

FILE = b"\x89PNG\r\n\x1a\n and so on"
BASE64 = base64.b64encode(FILE).decode()
PLACE = ("passages", 3, "image")
MOST = 1 << 20


def decoded(*sent: str | SentImage, most: int = MOST) -> list[bytes]:
    async def run() -> list[bytes]:
        images = [one if isinstance(one, SentImage) else SentImage(one, PLACE) for one in sent]
        return await decode_images([image.base64(most) for image in images], TimeSlices())

    return asyncio.run(run())


@pytest.mark.parametrize(
    "head",
    [
        "",
        "data:image/png;base64,",
        "data:image/jpeg;charset=utf-8;base64,",
        "DATA:IMAGE/PNG;BASE64,",
        "data:;base64,",
        "data:application/octet-stream;name=page.tiff;base64,",
    ],
)
def test_data_urls_and_base64_alone(head: str) -> None:
    assert decoded(head + BASE64) == [FILE]


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        ("https://example.com/page.png", "nothing is fetched here"),
        ("HTTP://example.com/page.png", "nothing is fetched here"),
        (" http://169.254.169.254/latest", "nothing is fetched here"),
        ("file:///etc/passwd", "nothing is fetched here"),
        ("s3://bucket/page.png", "nothing is fetched here"),
        ("data:image/png,%89PNG", "another encoding"),
        ("data:image/svg+xml;utf8,<svg/>", "another encoding"),
        ("data:image/png;asset_id,0000", "another encoding"),
        ("data:" + "x" * 10_000 + ";base64,AAAA", "another encoding"),
        ("data:image/gif;base64", "another encoding"),
        ("", "is empty"),
        ("data:image/png;base64,", "is empty"),
        ("A", "1 characters, 1 more than a multiple of 4"),
        (BASE64[:-1], "more than a multiple of 4"),
        ("/page.png", "more than a multiple of 4"),
        ("ab-_", "another character"),
        ("AAA\n", "another character"),
        ("AA A", "another character"),
        ("ÄAAA", "another character"),
        ("data:image/png;base64,%2BAAAAA", "another character"),
        ("====", "another character, or = before the end"),
        ("AA==AAAA", "= before the end"),
    ],
)
def test_what_is_no_image_is_refused_where_it_stands(sent: str, told: str) -> None:
    with pytest.raises(InvalidRequest, match=told) as caught:
        decoded(sent)
    assert caught.value.location == PLACE
    assert str(caught.value).startswith("passages[3].image: this image ")
    assert len(sent) < 2 or sent not in str(caught.value)


def test_a_file_may_have_as_many_bytes_as_allowed() -> None:
    for size in (1, 2, 3, 100):
        sent = base64.b64encode(bytes(size)).decode()
        assert decoded(sent, most=size) == [bytes(size)]
        with pytest.raises(InvalidRequest, match=rf"has {size + 1} bytes, wanted at most {size};"):
            decoded(base64.b64encode(bytes(size + 1)).decode(), most=size)


def test_what_a_model_says_of_an_image_is_told_where_it_stands() -> None:
    """Also by a text model that was swapped in meanwhile."""
    at = Field("documents", images={1: SentImage("", ("documents", 1, "content", 0, "image_url"))})
    for error, told in (
        (ImageNotAllowed(TextPlace("passages", 1, "image"), "this model takes none"), "is not"),
        (InvalidImage(TextPlace("passages", 1, "image"), "it is damaged"), "cannot be read"),
    ):
        with (
            pytest.raises(InvalidRequest, match=f"this image {told}") as caught,
            locating_errors(passages=at),
        ):
            raise error
        assert caught.value.location == at.images[1].place


def test_a_part_of_a_text() -> None:
    text = f"before data:image/png;base64,{BASE64} behind"
    begin, end = text.index("data:"), text.index(" behind")
    assert decoded(SentImage(text, PLACE, begin, end)) == [FILE]


def test_large_and_many_images_are_decoded_in_time_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    data = random.Random(0)
    files = [data.randbytes(size) for size in (3 * SLICE_BYTES + 1, *[SLICE_BYTES // 4] * 9)]
    waits = 0
    wait = TimeSlices.wait

    async def counting(slices: TimeSlices) -> None:
        nonlocal waits
        waits += 1
        await wait(slices)

    monkeypatch.setattr(TimeSlices, "wait", counting)
    sent = [base64.b64encode(file).decode() for file in files]
    assert decoded(*sent, most=4 * SLICE_BYTES) == files
    assert waits + 1 >= sum(map(len, sent)) / SLICE_BYTES


@pytest.mark.parametrize("padding", ["=", "=="])
def test_padding_may_not_end_a_slice(padding: str) -> None:
    """A slice alone would be base64 as it is."""
    part = "A" * (SLICE_BYTES - len(padding)) + padding
    assert decoded(part)
    with pytest.raises(InvalidRequest, match="= before the end"):
        decoded(part + "AAAA")
