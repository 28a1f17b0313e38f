"""Images over KServe: the tensors passage_image and modality, over HTTP and gRPC."""

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.opening import open_embedder
from runtime.requests import EmbedRequest, Passage
from server.connection import Reservation
from tests.server.conftest import Server
from tests.server.in_process import InProcess
from tests.server.surfaces.images import (
    FIVE,
    ONE,
    THREE,
    VISION_EMBED,
    VISION_RANK,
    bare,
    data_url,
)
from tests.server.surfaces.kserve_requests import RANK
from tests.server.surfaces.triton_client import (
    EMBED,
    GRPC,
    HTTP,
    QUERY,
    InferenceServerException,
    Triton,
)

BOTH = pytest.mark.parametrize("transport", [HTTP, GRPC])
Open = Callable[[str], Triton]


@pytest.fixture
def triton(vision_server: InProcess) -> Iterator[Open]:
    made: list[Triton] = []

    def make(transport: str) -> Triton:
        settings = vision_server.settings
        port = settings.triton_port if transport == HTTP else settings.grpc_port
        made.append(Triton(port, transport))
        return made[-1]

    yield make
    for one in made:
        one.client.close()


def rank(one: Triton, texts: list[str], images: list[str], **options: Any) -> Any:
    tensors = [one.texts("query", [QUERY]), one.texts("passage", texts)]
    return one.client.infer(VISION_RANK, [*tensors, one.texts("passage_image", images)], **options)


def embed(one: Triton, texts: list[str], modality: list[str], **parameters: Any) -> Any:
    tensors = [one.texts("text", texts)]
    if modality:
        tensors.append(one.texts("modality", modality))
    return one.client.infer(VISION_EMBED, tensors, parameters=parameters)


@BOTH
def test_the_tensor_is_described_as_optional(triton: Open, transport: str) -> None:
    one = triton(transport)
    metadata = one.plain(one.client.get_model_metadata(VISION_RANK))
    assert [tensor["name"] for tensor in metadata["inputs"]] == [
        "query",
        "passage",
        "passage_image",
    ]
    config = one.plain(one.client.get_model_config(VISION_RANK))
    config = config.get("config", config)
    optional = [tensor.get("optional", False) for tensor in config["input"]]
    assert optional == [False, False, True]
    tensors = [one.texts("query", [QUERY]), one.texts("passage", ["a", "b"])]
    assert one.client.infer(VISION_RANK, tensors).as_numpy("logit").shape == (2, 1)


@BOTH
@pytest.mark.parametrize(
    ("image", "told"),
    [
        ("https://a.example/b.png", "nothing is fetched"),
        ("AAA", "not base64"),
        (bare(b"no image"), "PNG, JPEG"),
    ],
)
def test_a_wrong_image_is_named(triton: Open, transport: str, image: str, told: str) -> None:
    one = triton(transport)
    with pytest.raises(InferenceServerException, match=told) as caught:
        rank(one, ["a", ""], [data_url(ONE), image])
    assert "passage_image[1]: this image" in str(caught.value)
    assert rank(one, ["", "b"], [data_url(ONE), ""]).as_numpy("logit").shape == (2, 1)


@BOTH
def test_passages_is_another_name(triton: Open, transport: str) -> None:
    one = triton(transport)
    query, image = one.texts("query", [QUERY]), one.texts("passage_image", [data_url(ONE), ""])

    def logits(*names: str, texts: list[str]) -> Any:
        tensors = [query, image, *(one.texts(name, texts) for name in names)]
        return one.client.infer(VISION_RANK, tensors).as_numpy("logit")

    texts = ["", "b"]
    np.testing.assert_array_equal(
        logits("passages", texts=texts), logits("passage", texts=texts), strict=True
    )
    for names, texts, told in (
        (["passages"], ["", ""], r"passages\[1\]: this text is blank"),
        (["passage", "passages"], ["a", "b"], "found passage twice"),
    ):
        with pytest.raises(InferenceServerException, match=told):
            logits(*names, texts=texts)


@BOTH
def test_a_passage_without_both_is_blank(triton: Open, transport: str) -> None:
    with pytest.raises(InferenceServerException, match=r"passage\[1\]: this text is blank"):
        rank(triton(transport), ["a", ""], [data_url(ONE), ""])


@BOTH
def test_there_is_an_image_for_each_passage(triton: Open, transport: str) -> None:
    with pytest.raises(InferenceServerException, match="1 images for 2 passages"):
        rank(triton(transport), ["a", "b"], [data_url(ONE)])


@BOTH
def test_tokens_of_images_are_counted(triton: Open, transport: str) -> None:
    counts = rank(triton(transport), ["a", "a"], ["", data_url(THREE)]).as_numpy("token_count")
    assert counts[1] == counts[0] + 3 * 9 + 3


@BOTH
def test_what_is_too_long_and_what_is_cut(triton: Open, transport: str) -> None:
    one = triton(transport)
    given = (["x" * 230], [data_url(THREE)])
    with pytest.raises(InferenceServerException, match="exceeds maximum allowed token size 256"):
        rank(one, *given)
    assert rank(one, *given, parameters={"truncate": "END"}).as_numpy("token_count") == [256]


@BOTH
@pytest.mark.parametrize("modality", [[], ["text", "image", "text_image"]])
def test_images_are_embedded(
    triton: Open, transport: str, modality: list[str], vision_embed_artifact: Path
) -> None:
    texts = ["a text", data_url(FIVE), f"a caption\n{data_url(ONE)}"]
    passages = ["a text", Passage("", FIVE), Passage("a caption", ONE)]
    with closing(open_embedder(vision_embed_artifact)) as model:
        wanted = model.embed(EmbedRequest(passages, "passage")).vectors
    found = embed(triton(transport), texts, modality, input_type="passage").as_numpy("embeddings")
    np.testing.assert_allclose(found, wanted, atol=2e-5, rtol=0)


@BOTH
def test_one_modality_is_that_of_all(triton: Open, transport: str) -> None:
    one, texts = triton(transport), [data_url(ONE), data_url(FIVE)]
    single = embed(one, texts, ["image"], input_type="passage").as_numpy("embeddings")
    each = embed(one, texts, ["image", "image"], input_type="passage").as_numpy("embeddings")
    np.testing.assert_allclose(single, each, atol=1e-6)


@BOTH
@pytest.mark.parametrize(
    ("texts", "modality", "kind", "told"),
    [
        ([data_url(ONE)], ["image"], "query", r"text\[0\]: an image is no query"),
        (["a", "AAA"], ["text", "image"], "passage", r"text\[1\]: this image is not base64"),
        (["a"], ["video"], "passage", "modality: wanted one of text, image, text_image"),
        (["a", "b"], ["text"] * 3, "passage", "3 values for 2 inputs"),
    ],
)
def test_wrong_inputs_are_named(
    triton: Open, transport: str, texts: list[str], modality: list[str], kind: str, told: str
) -> None:
    with pytest.raises(InferenceServerException, match=told):
        embed(triton(transport), texts, modality, input_type=kind)


@BOTH
def test_a_text_model_says_that_it_takes_none(mock_server: Server, transport: str) -> None:
    one = Triton(mock_server.port if transport == HTTP else mock_server.grpc_port, transport)
    with closing(one.client):
        inputs = [one.texts("query", [QUERY]), one.texts("passage", ["a", "b"])]
        image = one.texts("passage_image", ["", data_url(ONE)])
        with pytest.raises(InferenceServerException, match="takes text, not images"):
            one.client.infer(RANK, [*inputs, image])
        none = one.texts("passage_image", ["", ""])
        assert one.client.infer(RANK, [*inputs, none]).as_numpy("logit").shape == (2, 1)
        modality = one.texts("modality", ["image"])
        with pytest.raises(InferenceServerException, match="embeds text only"):
            one.client.infer(EMBED, [one.texts("text", ["a"]), modality])


def test_files_count_beside_a_message(triton: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    add = Reservation.add

    def counting(reservation: Reservation, count: int) -> None:
        sizes.append(count)
        add(reservation, count)

    monkeypatch.setattr(Reservation, "add", counting)
    rank(triton(GRPC), ["", "a"], [bare(ONE), data_url(FIVE)])
    assert sizes[-1] == len(ONE) + len(FIVE)
