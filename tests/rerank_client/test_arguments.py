"""Arguments that a client and a call refuse before any request."""

import enum
import pickle
from typing import Any

import msgspec
import pytest

from rerank_client import AsyncRerankClient, RerankClient, RerankError
from rerank_client.question import encode, question
from rerank_client.target import find_target


@pytest.mark.parametrize("make", [RerankClient, AsyncRerankClient])
@pytest.mark.parametrize(
    "url",
    [
        "localhost:8000",
        "ftp://host",
        "http://",
        "http://[::1",
        "http://h:port",
        "\x00",
        "http://\ud83d",
    ],
)
def test_an_address_that_is_not_https_is_refused_when_the_client_is_made(
    make: type, url: str
) -> None:
    with pytest.raises(RerankError, match=r"^base_url .*wanted one like http://localhost:8000"):
        make(url)


def test_the_variable_is_named_when_it_is_the_wrong_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RERANK_URL", "gpu-box:8000")
    with pytest.raises(RerankError, match=r"^RERANK_URL does not begin with http://"):
        RerankClient()


@pytest.mark.parametrize("port", [99999, 0, -1])
def test_a_port_that_no_machine_has_is_refused(port: int) -> None:
    with pytest.raises(RerankError, match=f"base_url has port {port}, wanted 1 to 65535"):
        RerankClient(f"http://127.0.0.1:{port}")


@pytest.mark.parametrize("value", [None, ""])
def test_without_an_address_it_is_port_8000_of_this_machine(
    monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    if value is None:
        monkeypatch.delenv("RERANK_URL", raising=False)
    else:
        monkeypatch.setenv("RERANK_URL", value)
    assert find_target(None, None).url == "http://localhost:8000/rerank"


@pytest.mark.parametrize("key", ["two words", "line\nend", "schlüssel"])
def test_a_key_that_no_header_carries_is_refused_and_not_shown(key: str) -> None:
    with pytest.raises(RerankError, match=r"^api_key") as raised:
        RerankClient("http://host", api_key=key)
    assert key not in str(raised.value)


def test_a_password_in_the_address_is_sent_and_not_shown() -> None:
    target = find_target("http://user:secret@host/x", "nvapi-secret")
    assert target.url == "http://user:secret@host/x/rerank"
    assert target.name == "http://host/x/rerank"
    assert "secret" not in repr(target)


@pytest.mark.parametrize("password", ["sec#ret", "sec/ret", "sec?ret", "sec\x00ret", "sec[ret"])
def test_no_piece_of_a_password_is_shown(password: str) -> None:
    try:
        found = find_target(f"http://user:{password}@host", None).name
    except RerankError as error:
        found = f"{error} {error.__cause__ or ''} {error.__suppress_context__}"
    assert "sec" not in found
    assert not found.endswith("False")


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ((b"q", ["a"], None), "query is a bytes, wanted a str"),
        (("q", "a text", None), "documents is one str, wanted a list of str"),
        (("q", ["a", None], None), r"documents\[1\] is a NoneType, wanted a str"),
        (("q", ["a"], 0), "top_n is 0, wanted at least 1"),
        (("q", [], -1), "top_n is -1, wanted at least 1"),
        (("q", ["a"], 1.5), "'float' object cannot be interpreted as an integer"),
        (("q", ["a"], "1"), "'str' object cannot be interpreted as an integer"),
    ],
)
def test_mistakes_of_the_caller_are_never_degraded(arguments: Any, wanted: str) -> None:
    with (
        RerankClient("http://host") as client,
        pytest.raises((TypeError, ValueError), match=wanted),
    ):
        client.rerank_or_keep_order(*arguments)


def test_any_kind_of_string_and_of_iterable_is_sent() -> None:
    class Kind(str, enum.Enum):  # noqa: UP042 (StrEnum is newer than Python 3.10)
        NEWS = "news"

    asked = question(Kind.NEWS, (text for text in ("a", Kind.NEWS)), None)
    body = msgspec.json.decode(encode(asked))
    assert (body["query"], body["documents"]) == ("news", ["a", "news"])


def test_an_error_survives_a_process_border() -> None:
    copy = pickle.loads(pickle.dumps(RerankError("text", status=503, attempts=3)))
    assert (str(copy), copy.status, copy.attempts) == ("text", 503, 3)
