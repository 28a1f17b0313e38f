"""POST /v1/ranking with images: formats, limits, names, and what is refused and where."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from server import exchange
from server.names import NIM_IMAGE_IDS
from tests.server.conftest import IMAGE_BYTES, IMAGE_PIXELS, IMAGE_TILES
from tests.server.in_process import InProcess, Serve
from tests.server.surfaces.images import FIVE, ONE, THREE, bare, converted, data_url
from tests.server.surfaces.test_nim import assert_request_error, assert_validation_error
from tests.tiny_vision import TOKENS, encoded, png

MAX_TOKENS = 256
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")


@pytest.fixture
def client(vision_server: InProcess) -> Iterator[httpx.Client]:
    """Proves, after each test, that the next request works."""
    yield vision_server.http
    assert rank(vision_server.http, {"text": "p", "image": bare(ONE)}).status_code == 200


def rank(client: httpx.Client, *passages: dict[str, Any], **more: Any) -> httpx.Response:
    body = {"query": {"text": "q"}, "passages": list(passages), **more}
    return client.post("/v1/ranking", json=body)


def logits(response: httpx.Response) -> list[float]:
    assert response.status_code == 200, response.text
    return [r["logit"] for r in sorted(response.json()["rankings"], key=lambda r: r["index"])]


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("called", ["image/png", "application/octet-stream", ""])
def test_the_bytes_say_which_format_it_is(client: httpx.Client, kind: str, called: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    file = converted(png(60, 60), kind, **options)
    found = logits(rank(client, {"image": bare(file)}, {"image": data_url(file, called)}))
    assert found[0] == found[1]
    if kind not in ("JPEG", "GIF"):  # which keep other colours
        assert found[0] == pytest.approx(logits(rank(client, {"image": bare(png(60, 60))}))[0])


def test_usage_counts_the_whole_sequence(client: httpx.Client) -> None:
    def tokens(*passages: dict[str, str]) -> int:
        found = rank(client, *passages).json()["usage"]
        assert found["prompt_tokens"] == found["total_tokens"]
        return int(found["total_tokens"])

    text, image, both = {"text": "caption"}, {"image": bare(THREE)}, {"text": "caption"}
    both |= image
    marks = len(("<img>", "</img>", " "))
    assert tokens(both) == tokens(text) + 3 * TOKENS + marks
    assert tokens(image) == tokens(both) - len("caption")
    assert tokens(text, image, both) == tokens(text) + tokens(image) + tokens(both)


def test_what_does_not_fit_beside_an_image_is_told_or_cut(
    client: httpx.Client, serve: Serve, vision_artifact: Path
) -> None:
    long = {"text": "x" * 230, "image": bare(THREE)}
    found = rank(client, {"text": "x" * 230}, long)
    assert_request_error(found, 422)
    tokens = rank(client, {**long, "text": "x"}).json()["usage"]["total_tokens"] + 229
    assert found.json()["message"] == (
        f"Input length {tokens} exceeds maximum allowed token size {MAX_TOKENS}"
    )
    cut = rank(client, {"text": "x" * 230}, long, truncate="END")
    assert (cut.status_code, cut.headers["x-truncated-passages"]) == (200, "1")
    older = serve({"RERANK_MODEL_DIR": str(vision_artifact), "RERANK_TOO_LONG_STATUS": "400"})
    assert_request_error(rank(older.http, long), 400)


def test_an_image_that_alone_is_too_long(serve: Serve, vision_artifact: Path) -> None:
    server = serve({"RERANK_MODEL_DIR": str(vision_artifact), "MAX_SEQUENCE_LENGTH": "40"})
    found = rank(server.http, {"image": bare(FIVE)}, truncate="END")
    assert_request_error(found, 422)
    assert found.json()["message"].endswith("exceeds maximum allowed token size 40")


WRONG: dict[str, tuple[str, str]] = {
    "address": ("https://example.com/page.png", "nothing is fetched"),
    "file": ("file:///etc/passwd", "nothing is fetched"),
    "another encoding": ("data:image/svg+xml,<svg/>", "another encoding"),
    "url-safe": ("_-" * 8, "not base64"),
    "no padding": (bare(b"1234").rstrip("="), "not base64"),
    "empty": ("", "is empty"),
    "empty data URL": ("data:image/png;base64,", "is empty"),
    "no image": (bare(b"%PDF-1.7 and so on"), "PNG, JPEG, WebP, GIF, BMP or TIFF"),
    "cut off": (data_url(ONE[: len(ONE) // 2]), "PNG, JPEG, WebP, GIF, BMP or TIFF"),
    "too many bytes": (
        bare(bytes(IMAGE_BYTES + 1)),
        f"has {IMAGE_BYTES + 1} bytes, wanted at most {IMAGE_BYTES};",
    ),
    "too many pixels": (
        bare(encoded(Image.new("RGB", (1000, 1000)))),
        f"has 1000 × 1000 pixels, wanted at most {IMAGE_PIXELS} pixels",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_image_is_refused_where_it_stands(client: httpx.Client, name: str) -> None:
    image, told = WRONG[name]
    for beside in ({}, {"text": "caption"}):
        found = rank(client, {"text": "a"}, {"image": bare(ONE)}, {"image": image, **beside})
        assert_validation_error(found, "passages", 2, "image")
        message = found.json()["detail"]["msg"]
        assert told in message
        assert message.startswith("passages[2].image: this image ")


@pytest.mark.parametrize("image", [5, True, ["a"], {"url": "data:,"}])
def test_an_image_is_a_text(client: httpx.Client, image: Any) -> None:
    assert_validation_error(rank(client, {"image": image}), "passages", 0, "image")


def test_images_of_too_many_tiles(client: httpx.Client) -> None:
    pictures = [{"image": bare(png(150, 150, seed))} for seed in range(IMAGE_TILES // 5 + 1)]
    assert rank(client, *pictures[:-1]).status_code == 200
    found = rank(client, *pictures)
    assert_validation_error(found)
    assert f"wanted at most {IMAGE_TILES}" in found.json()["message"]
    assert "RERANK_IMAGE_MAX_TILES" in found.json()["message"]


def test_one_image_as_often_as_there_may_be_passages(client: httpx.Client) -> None:
    found = logits(rank(client, *[{"text": "p", "image": bare(FIVE)}] * 64))
    assert found == pytest.approx([found[0]] * 64)
    assert_validation_error(rank(client, *[{"image": bare(FIVE)}] * 65), "passages")


def test_a_query_has_no_image(client: httpx.Client) -> None:
    body = {"query": {"text": "q", "image": bare(ONE)}, "passages": [{"text": "p"}]}
    assert_validation_error(client.post("/v1/ranking", json=body), "query", "image")


def test_a_passage_has_a_text_or_an_image(client: httpx.Client) -> None:
    for nothing in ({}, {"image": None}):
        found = rank(client, {"text": "a"}, nothing)
        assert_validation_error(found, "passages", 1, "text")


def test_a_text_model_says_that_it_takes_none(mock_in_process: InProcess) -> None:
    found = rank(mock_in_process.http, {"text": "a"}, {"text": "b", "image": "not looked at"})
    assert_validation_error(found, "passages", 1, "image")
    assert "takes text, not images" in found.json()["message"]
    assert rank(mock_in_process.http, {"text": "b", "image": None}).status_code == 200


def test_files_count_beside_the_body(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    reserve = exchange.reserve_beside_body

    def counting(request: Any, size: int) -> None:
        sizes.append(size)
        reserve(request, size)

    monkeypatch.setattr(exchange, "reserve_beside_body", counting)
    assert rank(client, {"image": bare(ONE)}, {"image": data_url(FIVE)}).status_code == 200
    assert sizes[-1] == len(ONE) + len(FIVE)


@pytest.mark.parametrize("name", NIM_IMAGE_IDS["rank"])
def test_nvidia_s_names_of_vision_models(client: httpx.Client, name: str) -> None:
    for model in (name, name.removeprefix("nvidia/"), name.replace(".", "_")):
        assert rank(client, {"image": bare(ONE)}, model=model).status_code == 200


def test_timing_tells_of_images(client: httpx.Client) -> None:
    timing = rank(client, {"image": bare(png(91, 91))}).headers["server-timing"]
    assert [part.split(";")[0] for part in timing.split(", ")][:3] == ["read", "decode", "image"]
    assert "image" not in rank(client, {"text": "p"}).headers["server-timing"]
