"""Both clients against a real server that misbehaves: one table for both."""

import asyncio
import json
import socket
from email.utils import formatdate
from time import time

import pytest

from rerank_client import AsyncRerankClient, RerankClient, RerankError, RerankResult
from tests.rerank_client.conftest import Asker, MakeAsker
from tests.rerank_client.scripted_server import (
    Raw,
    Say,
    ScriptedServer,
    Step,
    ranking,
)

QUERY = "which one?"
DOCUMENTS = ["first", "second", "third"]
SCORES = [0.45, 0.85, -0.12]
GOOD = ranking(SCORES)
BEST_FIRST = [1, 0, 2]
IN_55_SECONDS = "a date 55 seconds after the test begins"
OVERLOADED = Say(503, b'{"message":"busy"}')


def reply(**fields: object) -> Say:
    return Say(200, json.dumps({"scores": SCORES, "ranked_indices": BEST_FIRST} | fields).encode())


def test_scores_are_in_the_order_of_the_documents(server: ScriptedServer, asker: Asker) -> None:
    server.script = [GOOD]
    assert asker.rerank(QUERY, DOCUMENTS) == RerankResult(SCORES, BEST_FIRST, degraded=False)
    (request,) = server.requests
    assert request.line == "POST /rerank HTTP/1.1"
    assert request.headers["content-type"] == "application/json"
    assert "authorization" not in request.headers
    assert request.json == {"query": QUERY, "documents": DOCUMENTS, "return_documents": False}


@pytest.mark.parametrize("top_n", [1, 2, 3, 9])
def test_top_n_trims_the_indices_and_not_the_scores(
    server: ScriptedServer, asker: Asker, top_n: int
) -> None:
    server.script = [GOOD]
    result = asker.rerank(QUERY, DOCUMENTS, top_n)
    assert result == RerankResult(SCORES, BEST_FIRST[:top_n])
    assert server.requests[0].json["top_n"] == min(top_n, 3)


def test_no_documents_ask_nobody(server: ScriptedServer, asker: Asker) -> None:
    assert asker.rerank(QUERY, []) == RerankResult([], [])
    assert asker.rerank_or_keep_order(QUERY, [], 5) == RerankResult([], [])
    assert not server.connections


def test_calls_share_a_connection(server: ScriptedServer, asker: Asker) -> None:
    server.script = [GOOD, OVERLOADED, GOOD]
    for _ in range(5):
        asker.rerank(QUERY, DOCUMENTS)
    assert len(server.requests) == 6
    assert server.connections == 1


# Retryable failures: the server answers on the third attempt.
PASSING: dict[str, Step] = {
    "408": Say(408),
    "429": Say(429, b'{"message":"slow down"}'),
    "500": Say(500),
    "503": OVERLOADED,
    "504": Say(504, b"<html>gateway</html>"),
    "dropped": Raw(),
    "dropped in the headers": Raw(b"HTTP/1.1 200 OK\r\ncontent-len"),
    "dropped in the body": Raw(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{"),
    "another protocol": Raw(b"HTTP/1.1 101 Switch\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n{}"),
    "not HTTP": Raw(b"SSH-2.0-OpenSSH_9.9\r\n\r\n"),
}


@pytest.mark.parametrize("step", PASSING.values(), ids=PASSING)
def test_what_may_pass_is_asked_again(
    server: ScriptedServer, asker: Asker, waits: list[float], step: Step
) -> None:
    server.script = [step, step, GOOD]
    assert asker.rerank(QUERY, DOCUMENTS).ranked_indices == BEST_FIRST
    first, second = waits
    assert 0.5 <= first <= 1.5
    assert 1 <= second <= 3
    assert len({request.body for request in server.requests}) == 1


@pytest.mark.parametrize("step", PASSING.values(), ids=PASSING)
def test_three_attempts_are_all(
    server: ScriptedServer, asker: Asker, waits: list[float], step: Step
) -> None:
    server.script = [step]
    with pytest.raises(RerankError, match=r"attempt 3 of 3") as raised:
        asker.rerank(QUERY, DOCUMENTS)
    assert raised.value.attempts == len(server.requests) == 3
    assert raised.value.status == (step.status if isinstance(step, Say) else None)
    assert len(waits) == 2


def test_a_dead_port_is_an_error_that_names_it(
    make_asker: MakeAsker, waits: list[float], dead_url: str
) -> None:
    with pytest.raises(RerankError, match=f"POST {dead_url}/rerank: ConnectError") as raised:
        make_asker(base_url=dead_url).rerank(QUERY, DOCUMENTS)
    assert (raised.value.status, raised.value.attempts) == (None, 3)
    assert len(waits) == 2


@pytest.mark.parametrize("url", [f"http://{'a' * 70}", "http://a..b"])
def test_an_address_that_leads_nowhere_is_an_error(make_asker: MakeAsker, url: str) -> None:
    with pytest.raises(RerankError):
        make_asker(base_url=url).rerank(QUERY, DOCUMENTS)


def test_a_name_that_nobody_knows_is_an_error(
    make_asker: MakeAsker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask_nobody(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", ask_nobody)
    with pytest.raises(RerankError, match=r"ConnectError: .*not known") as raised:
        make_asker(base_url="http://no-such-host.invalid").rerank(QUERY, DOCUMENTS)
    assert raised.value.attempts == 3


@pytest.mark.parametrize("status", [400, 401, 404, 413, 422])
def test_a_refusal_that_cannot_change_is_final(
    server: ScriptedServer, asker: Asker, waits: list[float], status: int
) -> None:
    server.script = [Say(status, b'{"message":"no, because"}', {"retry-after": "1"})]
    with pytest.raises(RerankError, match=f"status {status}: no, because") as raised:
        asker.rerank(QUERY, DOCUMENTS)
    assert (raised.value.status, raised.value.attempts) == (status, 1)
    assert len(server.requests) == 1
    assert not waits


NONSENSE: dict[str, Step] = {
    "HTML": Say(200, b"<html>login</html>", {"content-type": "text/html"}),
    "nothing": Say(200),
    "no content": Say(204),
    "partial content": Say(206, GOOD.body),
    "bad UTF-8": Say(200, b"\xff\xfe"),
    "deep": Say(200, b'{"x":' + b"[" * 100_000),
    "no scores": Say(200, b'{"ranked_indices":[0,1,2]}'),
    "no indices": Say(200, b'{"scores":[1,2,3]}'),
    "too few scores": reply(scores=SCORES[:2], ranked_indices=[1, 0]),
    "too many scores": reply(scores=[*SCORES, 0.0], ranked_indices=[1, 0, 3, 2]),
    "NaN": Say(200, b'{"scores":[0.45,NaN,-0.12],"ranked_indices":[1,0,2]}'),
    "infinite": Say(200, b'{"scores":[0.45,1e999,-0.12],"ranked_indices":[1,0,2]}'),
    "null": reply(scores=[0.45, None, -0.12]),
    "text": reply(scores=["0.45", "0.85", "-0.12"]),
    "an index too few": reply(ranked_indices=[1, 0]),
    "an index twice": reply(ranked_indices=[1, 0, 0]),
    "an index too high": reply(ranked_indices=[1, 0, 3]),
    "a negative index": reply(ranked_indices=[1, 0, -1]),
    "not in order": reply(ranked_indices=[0, 1, 2]),
    "not gzip": Say(200, GOOD.body, {"content-encoding": "gzip"}),
    "redirect": Say(307, b"", {"location": "/rerank"}),
    "a redirect in no encoding": Raw(
        b"HTTP/1.1 302 Found\r\nlocation: http://\xff\xfe\r\ncontent-length: 0\r\n\r\n"
    ),
    "a number of many digits": Say(200, b'{"scores":[%s],"ranked_indices":[0]}' % (b"9" * 100)),
    "an error of many digits": Say(400, b'{"message":%s}' % (b"9" * 10_000)),
}


@pytest.mark.parametrize("step", NONSENSE.values(), ids=NONSENSE)
def test_an_answer_without_sense_is_an_error_at_once(
    server: ScriptedServer, asker: Asker, step: Step
) -> None:
    server.script = [step]
    with pytest.raises(RerankError, match=f"POST {server.url}/rerank: ") as raised:
        asker.rerank(QUERY, DOCUMENTS)
    assert raised.value.attempts == len(server.requests) == 1
    assert str(raised.value).isprintable()


def test_a_redirect_is_named_and_not_followed(server: ScriptedServer, asker: Asker) -> None:
    server.script = [Say(308, b"", {"location": "https://elsewhere/rerank"})]
    with pytest.raises(RerankError, match="redirected to https://elsewhere/rerank; set base_url"):
        asker.rerank(QUERY, DOCUMENTS)


def test_a_redirect_to_no_address_is_an_error(server: ScriptedServer, asker: Asker) -> None:
    server.script = [Say(301, b"", {"location": "http://[broken"})]
    with pytest.raises(RerankError, match=f"POST {server.url}/rerank: "):
        asker.rerank(QUERY, DOCUMENTS)


@pytest.mark.parametrize(
    ("header", "shortest", "longest"),
    [
        ("7", 7, 8),
        ("0", 0, 1),
        (IN_55_SECONDS, 2, 56),  # longer than the client's own delay
        (formatdate(0, usegmt=True), 0, 1),
        ("soon", 0.5, 1.5),
    ],
    ids=["seconds", "at once", "date", "past date", "unreadable"],
)
def test_retry_after_is_honoured(
    server: ScriptedServer,
    asker: Asker,
    waits: list[float],
    header: str,
    shortest: float,
    longest: float,
) -> None:
    if header == IN_55_SECONDS:
        header = formatdate(time() + 55, usegmt=True)
    server.script = [Say(503, b"", {"Retry-After": header}), GOOD]
    asker.rerank(QUERY, DOCUMENTS)
    (wait,) = waits
    assert shortest <= wait <= longest


def test_a_wait_beyond_the_bound_is_an_error_at_once(
    server: ScriptedServer, asker: Asker, waits: list[float]
) -> None:
    server.script = [Say(429, b"", {"retry-after": "3600"})]
    with pytest.raises(RerankError, match=r"status 429: .*retry-after: 3600"):
        asker.rerank(QUERY, DOCUMENTS)
    assert not waits


@pytest.mark.parametrize(
    ("step", "attempts"), [(OVERLOADED, 3), (Say(400, b'{"message":"no"}'), 1), (Raw(), 3)]
)
def test_the_given_order_is_kept_and_said_to_be(
    server: ScriptedServer,
    asker: Asker,
    caplog: pytest.LogCaptureFixture,
    step: Step,
    attempts: int,
) -> None:
    server.script = [step]
    kept = asker.rerank_or_keep_order(QUERY, DOCUMENTS, 2)
    assert kept == RerankResult([0.0, 0.0, 0.0], [0, 1], degraded=True)
    assert len(server.requests) == attempts
    (warning,) = [r for r in caplog.records if r.levelname == "WARNING"]
    assert warning.name == "rerank_client"
    assert f"the given order is kept: POST {server.url}/rerank" in warning.getMessage()


def test_a_ranking_is_not_degraded(
    server: ScriptedServer, asker: Asker, caplog: pytest.LogCaptureFixture
) -> None:
    server.script = [GOOD]
    assert asker.rerank_or_keep_order(QUERY, DOCUMENTS) == RerankResult(SCORES, BEST_FIRST)
    assert not [record for record in caplog.records if record.name == "rerank_client"]


def test_a_client_recovers_with_its_server(server: ScriptedServer, asker: Asker) -> None:
    server.script = [Raw(), Raw(), Raw(), GOOD]
    assert asker.rerank_or_keep_order(QUERY, DOCUMENTS).degraded
    assert not asker.rerank_or_keep_order(QUERY, DOCUMENTS).degraded


def test_the_key_is_the_bearer(server: ScriptedServer, make_asker: MakeAsker) -> None:
    server.script = [GOOD]
    make_asker(api_key="nvapi-1\n").rerank(QUERY, DOCUMENTS)
    assert server.requests[0].headers["authorization"] == "Bearer nvapi-1"


def test_a_user_in_the_address_goes_before_the_key(
    server: ScriptedServer, make_asker: MakeAsker
) -> None:
    server.script = [GOOD]
    url = server.url.replace("//", "//user:pass%20word@")
    make_asker(base_url=url, api_key="nvapi-1").rerank(QUERY, DOCUMENTS)
    (request,) = server.requests
    assert request.headers["authorization"] == "Basic dXNlcjpwYXNzIHdvcmQ="
    assert request.headers["host"] == server.url.removeprefix("http://")


def test_the_address_may_have_a_folder(server: ScriptedServer, make_asker: MakeAsker) -> None:
    server.script = [GOOD]
    make_asker(base_url=f"{server.url}/models/rank/").rerank(QUERY, DOCUMENTS)
    assert server.requests[0].line == "POST /models/rank/rerank HTTP/1.1"


def test_rerank_url_is_read_when_the_client_is_made(
    server: ScriptedServer,
    make_asker: MakeAsker,
    dead_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server.script = [GOOD]
    monkeypatch.setenv("RERANK_URL", server.url)
    asker = make_asker(base_url=None)
    monkeypatch.setenv("RERANK_URL", dead_url)
    assert asker.rerank(QUERY, DOCUMENTS).ranked_indices == BEST_FIRST


def test_text_that_no_request_can_carry_is_an_error(server: ScriptedServer, asker: Asker) -> None:
    with pytest.raises(RerankError, match=r"documents\[1\] is not valid Unicode") as raised:
        asker.rerank(QUERY, ["whole", "half \ud83d"])
    assert raised.value.attempts == 0
    assert asker.rerank_or_keep_order("\ud83d", DOCUMENTS).degraded
    assert not server.connections


def test_real_pauses_are_the_defaults() -> None:
    """Other tests inject `sleep`; here the clients wait by themselves."""
    server = ScriptedServer()
    server.script = [Say(503, b"", {"retry-after": "0"}), GOOD] * 2

    async def ask() -> RerankResult:
        async with AsyncRerankClient(server.url) as client:
            return await client.rerank(QUERY, DOCUMENTS)

    try:
        with RerankClient(server.url) as client:
            assert client.rerank(QUERY, DOCUMENTS).ranked_indices == BEST_FIRST
        assert asyncio.run(ask()).ranked_indices == BEST_FIRST
    finally:
        server.close()
    assert len(server.requests) == 4


def test_tasks_share_an_async_client() -> None:
    server = ScriptedServer()
    server.script = [GOOD]

    async def ask() -> list[RerankResult]:
        async with AsyncRerankClient(server.url) as client:
            return await asyncio.gather(*(client.rerank(QUERY, DOCUMENTS) for _ in range(8)))

    try:
        results = asyncio.run(ask())
    finally:
        server.close()
    assert [result.ranked_indices for result in results] == [BEST_FIRST] * 8
