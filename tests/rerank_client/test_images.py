"""Passages with images: what both clients send of them, what a real server makes of that, and what
is refused before anything is sent."""

import asyncio
import base64
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from rerank_client import AsyncRerankClient, Passage, RerankClient, RerankError, Surface, nim
from rerank_client.answer import max_answer_bytes
from rerank_client.question import question
from rerank_client.surface import RERANK
from tests.rerank_client.conftest import Asker, MakeAsker
from tests.rerank_client.scripted_server import Endless, Request, Say, ScriptedServer, Step, ranking
from tests.server.in_process import InProcess, in_process
from tests.tiny_vision import encoded, png
from tests.waiting import PATIENCE_S

QUERY = "what does it show?"
PICTURE = png(90, 90)
MOST_IMAGE_BYTES, MOST_BODY_BYTES = 30_000, 100_000


class Forwarding(ScriptedServer):
    """Hands each request to a server in this process, after the steps of its script."""

    def __init__(self, inner: InProcess) -> None:
        super().__init__()
        self._inner = inner

    def next_step(self, request: Request) -> Step:
        self.requests.append(request)
        if self.script:
            return self.script.pop(0)
        path = request.line.split()[1]
        headers = {"content-type": request.headers["content-type"]}
        answer = self._inner.http.post(path, content=request.body, headers=headers)
        return Say(answer.status_code, answer.content)


@pytest.fixture(scope="module")
def vision(vision_artifact: Path) -> Iterator[InProcess]:
    """The tiny reranker of texts and images, with small limits."""
    limits = {
        "NIM_MAX_IMAGE_BYTES": str(MOST_IMAGE_BYTES),
        "NIM_HTTP_BODY_LIMIT_BYTES": str(MOST_BODY_BYTES),
    }
    with in_process({"RERANK_MODEL_DIR": str(vision_artifact), **limits}) as server:
        yield server


@pytest.fixture
def forwarding(vision: InProcess) -> Iterator[Forwarding]:
    server = Forwarding(vision)
    yield server
    server.close()


def url(file: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(file).decode()}"


def logit(server: InProcess, passage: dict[str, str]) -> float:
    """The server's own answer for one passage."""
    reply = server.rank({"query": {"text": QUERY}, "passages": [passage]})
    assert reply.status_code == 200, reply.text
    found: float = reply.json()["rankings"][0]["logit"]
    return found


@pytest.mark.parametrize("surface", [RERANK, nim()], ids=["rerank", "nim"])
def test_every_form_of_an_image_gets_its_score(
    vision: InProcess,
    forwarding: Forwarding,
    make_asker: MakeAsker,
    tmp_path: Path,
    surface: Surface,
) -> None:
    first, second, third = png(200, 100), png(150, 150), png(100, 200)
    (tmp_path / "a.png").write_bytes(first)
    (tmp_path / "b.png").write_bytes(second)
    asker = make_asker(base_url=forwarding.url, surface=surface)
    documents: list[str | Passage] = [
        "a text",
        {"image": str(tmp_path / "a.png")},
        {"image": tmp_path / "b.png", "text": "a caption"},
        {"text": "words alone"},
        {"image": third, "text": ""},
        {"text": "drawn", "image": Image.open(BytesIO(PICTURE))},
    ]
    wanted = [
        logit(vision, {"text": "a text"}),
        logit(vision, {"image": url(first)}),
        logit(vision, {"text": "a caption", "image": url(second)}),
        logit(vision, {"text": "words alone"}),
        logit(vision, {"image": url(third)}),
        logit(vision, {"text": "drawn", "image": url(PICTURE)}),
    ]
    assert len(set(wanted)) == len(wanted)
    result = asker.rerank(QUERY, documents, top_n=2)
    assert result.scores == pytest.approx(wanted, abs=2e-5)
    best = sorted(range(len(wanted)), key=lambda index: -wanted[index])
    assert result.ranked_indices == best[:2]


def test_an_image_is_sent_as_a_data_url_without_an_empty_text(
    server: ScriptedServer, make_asker: MakeAsker
) -> None:
    documents: list[str | Passage] = [
        "a",
        {"text": "b"},
        {"image": PICTURE},
        {"text": "", "image": PICTURE},
    ]
    picture = {"image": url(PICTURE)}
    server.script = [ranking([0.0] * 4)]
    make_asker().rerank(QUERY, documents)
    assert server.requests[0].json["documents"] == ["a", "b", picture, picture]
    body = nim().encode(question(QUERY, documents, None))
    assert Request(0, "", {}, body).json["passages"] == [
        *({"text": "a"}, {"text": "b"}, picture, picture)
    ]


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "gif", "bmp", "tiff"])
def test_the_first_bytes_say_the_kind_of_file(vision: InProcess, tmp_path: Path, kind: str) -> None:
    file = tmp_path / "page.dat"
    file.write_bytes(encoded(Image.open(BytesIO(PICTURE)).convert("RGB"), kind.upper()))
    body = nim().encode(question(QUERY, [{"image": file}], None))
    (passage,) = Request(0, "", {}, body).json["passages"]
    assert passage == {"image": url(file.read_bytes(), kind)}
    logit(vision, passage)


def sent_picture(drawn: Image.Image) -> Image.Image:
    """What is sent of it."""
    body = nim().encode(question(QUERY, [{"image": drawn}], None))
    (passage,) = Request(0, "", {}, body).json["passages"]
    head, _, data = passage["image"].partition(",")
    assert head == "data:image/png;base64"
    return Image.open(BytesIO(base64.b64decode(data)), formats=["PNG"])


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "RGBa", "PA", "CMYK", "HSV", "F"])
def test_pil_images_of_any_mode_are_sent_as_png(mode: str) -> None:
    drawn = Image.open(BytesIO(PICTURE)).convert("RGBA" if mode in ("RGBa", "PA") else "RGB")
    drawn.putpixel((0, 0), (255, 0, 0) if drawn.mode == "RGB" else (255, 0, 0, 128))
    drawn = drawn.convert(mode)
    wanted = drawn.convert("RGBA" if "A" in mode.upper() else "RGB")
    assert sent_picture(drawn).convert(wanted.mode).tobytes() == wanted.tobytes()


def test_a_16_bit_grey_keeps_its_bits() -> None:
    assert sent_picture(Image.new("I", (1, 1), 40_000)).getpixel((0, 0)) == 40_000


def unreadable(folder: Path) -> dict[str, tuple[Any, str]]:
    """Images that no request can have, and what is said of each."""
    (folder / "empty.png").touch()
    (folder / "page.pdf").write_bytes(b"%PDF-1.7 a page")
    (folder / "short.webp").write_bytes(b"RIFF")
    os.mkfifo(folder / "pipe.png")
    cut = Image.open(BytesIO(PICTURE[: len(PICTURE) // 2]))
    kinds = "is not an image: wanted a file of PNG, JPEG, WebP, GIF, BMP or TIFF"
    return {
        "long": (
            "A" * 3000,
            "cannot be read: "
            + "A" * 200
            + "… (3000 characters; base64 is no path: pass the bytes)",
        ),
        "missing": (folder / "no.png", f"cannot be read: {folder}/no.png: No such file"),
        "folder": (folder, f"is not a file: {folder}"),
        "pipe": (folder / "pipe.png", "is not a file: "),
        "null": ("a\0b", "cannot be read: a\0b: embedded null"),
        "empty": (folder / "empty.png", kinds),
        "pdf": (folder / "page.pdf", kinds),
        "short": (folder / "short.webp", kinds),
        "no bytes": (b"", kinds),
        "base64": (base64.b64encode(PICTURE), kinds),
        "cut": (cut, "cannot be written as PNG: "),
    }


def test_an_image_that_cannot_be_read_is_said_before_anything_is_sent(
    server: ScriptedServer, asker: Asker, tmp_path: Path
) -> None:
    for name, (image, words) in unreadable(tmp_path).items():
        documents: list[str | Passage] = ["a", {"text": "b", "image": image}]
        with pytest.raises(RerankError) as raised:
            asker.rerank(QUERY, documents)
        assert str(raised.value).startswith(f"documents[1].image {words}"), name
        assert (raised.value.status, raised.value.attempts) == (None, 0)
        result = asker.rerank_or_keep_order(QUERY, documents)
        assert (result.degraded, result.ranked_indices) == (True, [0, 1])
    assert not server.connections


@pytest.mark.parametrize(
    ("document", "wanted"),
    [
        ({}, " has no field, wanted text, image or both"),
        ({"txt": "a"}, " has a field 'txt', wanted text, image or both"),
        ({"text": None, "image": PICTURE}, ".text is a NoneType, wanted a str"),
        ({"text": b"a"}, ".text is a bytes, wanted a str"),
        ({"image": None}, ".image is a NoneType, wanted a path, a file's bytes or a PIL image"),
        ({"image": BytesIO(PICTURE)}, ".image is a BytesIO, wanted a path"),
        ({"image": "https://a.example/b.png"}, ".image is an address, wanted a path"),
        ({"image": url(PICTURE)}, ".image is an address, wanted a path"),
        (PICTURE, " is a bytes, wanted a str, or a dict of text and image"),
        (Path("a.png"), " is a PosixPath, wanted a str, or a dict"),
    ],
)
def test_mistakes_of_the_caller_are_never_degraded(document: Any, wanted: str) -> None:
    with RerankClient("http://host") as client, pytest.raises((TypeError, ValueError)) as raised:
        client.rerank_or_keep_order(QUERY, ["a", document])
    assert str(raised.value).startswith(f"documents[1]{wanted}")


def test_one_passage_is_no_list() -> None:
    with (
        RerankClient("http://host") as client,
        pytest.raises(TypeError, match="documents is one dict"),
    ):
        client.rerank(QUERY, {"image": PICTURE})


def noise(size: int) -> bytes:
    """A file that begins as a PNG does."""
    return PICTURE[:8] + bytes(size - 8)


def test_what_the_server_says_of_an_image_is_in_the_error(
    forwarding: Forwarding, make_asker: MakeAsker
) -> None:
    asker = make_asker(base_url=forwarding.url)
    for image, status, words in (
        (noise(1000), 400, "documents[1].image: this image"),
        (noise(MOST_IMAGE_BYTES + 1), 400, f"wanted at most {MOST_IMAGE_BYTES}"),
        (noise(MOST_BODY_BYTES), 413, str(MOST_BODY_BYTES)),
    ):
        with pytest.raises(RerankError) as raised:
            asker.rerank(QUERY, ["a", {"image": image}])
        assert words in str(raised.value)
        assert (raised.value.status, raised.value.attempts) == (status, 1)


def test_a_text_model_says_that_it_takes_none() -> None:
    with in_process({"ENABLE_MOCK_INFERENCE": "1"}) as mock:
        server = Forwarding(mock)
        with (
            closing(server),
            RerankClient(server.url) as client,
            pytest.raises(RerankError, match="this model takes text, not images"),
        ):
            client.rerank(QUERY, [{"image": PICTURE}])


def test_a_retry_sends_the_images_again(
    vision: InProcess, forwarding: Forwarding, make_asker: MakeAsker, waits: list[float]
) -> None:
    forwarding.script = [Say(503), Say(429, headers={"retry-after": "1"})]
    result = make_asker(base_url=forwarding.url).rerank(QUERY, [{"image": PICTURE}])
    assert result.scores == pytest.approx([logit(vision, {"image": url(PICTURE)})], abs=2e-5)
    assert len({request.body for request in forwarding.requests}) == 1
    assert (len(forwarding.requests), len(waits)) == (3, 2)


def test_images_do_not_lengthen_the_answer_that_is_read(
    server: ScriptedServer, asker: Asker
) -> None:
    server.script = [Endless(b"HTTP/1.1 200 OK\r\ncontent-length: 9999999\r\n\r\n", b" " * 65536)]
    most = max_answer_bytes(len(QUERY), 1)
    with pytest.raises(RerankError, match=f"it takes more than {most} bytes"):
        asker.rerank(QUERY, [{"image": noise(1_000_000)}])


class Slow(Image.Image):
    """Is written when somebody says so."""

    def __init__(self) -> None:
        super().__init__()
        self._mode = "RGB"
        self.may = threading.Event()

    def save(self, fp: Any, *_: Any, **__: Any) -> None:
        assert self.may.wait(PATIENCE_S)
        fp.write(PICTURE)


def test_the_event_loop_goes_on_while_images_are_read(server: ScriptedServer) -> None:
    server.script = [ranking([1.0])]
    slow = Slow()

    async def ask() -> list[float]:
        async with AsyncRerankClient(server.url) as client:
            call = asyncio.ensure_future(client.rerank(QUERY, [{"image": slow}]))
            await asyncio.sleep(0)
            slow.may.set()  # never reached if the call held the loop
            return (await call).scores

    assert asyncio.run(ask()) == [1.0]


def test_pillow_is_not_imported() -> None:
    code = (
        "import sys\n"
        "from rerank_client.question import encode, question\n"
        "encode(question('q', [{'image': b'GIF89a'}], None))\n"
        "assert 'PIL' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
