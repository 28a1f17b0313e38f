"""The images of the suite of faults, against a server in this process: what it refuses, what it
reads, and that both are as the suite says. `make test-faults` watches memory and health as well."""

from collections.abc import Iterator

import httpx
import pytest

from checks.faults.pictures import (
    ODD,
    REFUSED,
    base64_of,
    of_every_character,
    picture,
    plain_and_odd,
    rightly_encoded,
    wrongly_encoded,
)
from tests.server.in_process import InProcess
from tests.server.surfaces.test_nim import assert_validation_error

GOOD = base64_of(picture())
SENT = of_every_character()


@pytest.fixture
def client(vision_server: InProcess) -> Iterator[httpx.Client]:
    """Proves, after each test, that the next request works."""
    yield vision_server.http
    assert rank(vision_server.http, GOOD).status_code == 200


def rank(client: httpx.Client, *images: str) -> httpx.Response:
    body = {"query": {"text": "q"}, "passages": [{"image": image} for image in images]}
    return client.post("/v1/ranking", json=body)


def logits(response: httpx.Response) -> list[float]:
    assert response.status_code == 200, response.text
    return [r["logit"] for r in sorted(response.json()["rankings"], key=lambda r: r["index"])]


@pytest.mark.parametrize("name", [name for name in REFUSED if "whole" not in name])
def test_bombs_and_lies_are_refused_where_they_stand(client: httpx.Client, name: str) -> None:
    found = rank(client, GOOD, base64_of(REFUSED[name]()), GOOD)
    assert_validation_error(found, "passages", 1, "image")


@pytest.mark.parametrize("name", [name for name in ODD if "256 MiB" not in name])
def test_what_is_damaged_is_no_fault_of_the_server(client: httpx.Client, name: str) -> None:
    assert rank(client, base64_of(ODD[name]())).status_code in (200, 400)


def test_odd_formats_score_what_their_pixels_score(client: httpx.Client) -> None:
    for name, odd, plain in plain_and_odd():
        found, wanted = logits(rank(client, base64_of(odd), base64_of(plain)))
        assert found == pytest.approx(wanted, abs=1e-5), name


@pytest.mark.parametrize("name", wrongly_encoded(SENT))
def test_base64_of_another_alphabet_is_refused(client: httpx.Client, name: str) -> None:
    found = rank(client, GOOD, wrongly_encoded(SENT)[name])
    assert_validation_error(found, "passages", 1, "image")


def test_every_way_in_which_clients_send_it_is_one_image(client: httpx.Client) -> None:
    found = logits(rank(client, *rightly_encoded(SENT).values()))
    assert found == pytest.approx([found[0]] * len(found))
