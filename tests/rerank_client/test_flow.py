"""The retry flow without any I/O: what it asks for, step by step."""

import math
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerank_client.answer import (
    Answer,
    MakesNoSense,
    NoAnswer,
    read_ranking,
    server_message,
)
from rerank_client.backoff import asked_wait_s
from rerank_client.errors import RerankError
from rerank_client.flow import Flow, Send, Wait, rank, rank_or_keep_order
from rerank_client.question import question
from rerank_client.result import RerankResult
from rerank_client.target import find_target

TARGET = find_target("http://host", None)
ASKED = question("q", ["a", "b"], None)
GOOD = Answer(200, {}, b'{"scores":[-1.5,2],"ranked_indices":[1,0]}')
BUSY = Answer(503, {}, b"")
NOW_S = 1_000_000_000.0  # Sun, 09 Sep 2001 01:46:40 GMT
BROKEN = NoAnswer(ConnectionError("gone"), may_pass=True)


def flow(chance: float = 0.5) -> Flow:
    return rank(TARGET, ASKED, chance=lambda: chance, now=lambda: NOW_S)


def end_of(running: Flow, outcome: Answer | NoAnswer) -> RerankResult:
    with pytest.raises(StopIteration) as end:
        running.send(outcome)
    result = end.value.value
    assert isinstance(result, RerankResult)
    return result


def wait_after(outcome: Answer | NoAnswer, chance: float = 0.5) -> float:
    running = flow(chance)
    next(running)
    step = running.send(outcome)
    assert isinstance(step, Wait)
    return step.seconds


def test_the_steps_of_a_call_that_succeeds_last() -> None:
    running = flow()
    first = next(running)
    assert first == Send("http://host/rerank", TARGET.headers, first.body)  # type: ignore[union-attr]
    assert running.send(BUSY) == Wait(1.0)
    assert running.send(None) == first
    assert running.send(BROKEN) == Wait(2.0)
    assert running.send(None) == first
    assert end_of(running, GOOD) == RerankResult([-1.5, 2.0], [1, 0])


def test_the_last_failure_is_the_one_that_is_told() -> None:
    running = flow()
    next(running)
    for outcome in (BROKEN, BUSY):
        assert isinstance(running.send(outcome), Wait)
        running.send(None)
    with pytest.raises(RerankError, match=r"ConnectionError: gone \(attempt 3 of 3\)") as raised:
        running.send(BROKEN)
    assert raised.value.__cause__ is BROKEN.error


@pytest.mark.parametrize(("chance", "seconds"), [(0.0, 0.5), (0.5, 1.0), (1.0, 1.5)])
def test_jitter_is_half_to_one_and_a_half_times(chance: float, seconds: float) -> None:
    assert wait_after(BUSY, chance) == seconds


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("12", 12.5),
        (" 12 ", 12.5),
        ("60", 60.5),
        ("Sun, 09 Sep 2001 01:47:00 GMT", 20.5),
        ("Sun, 09 Sep 2001 03:47:00 +0200", 20.5),
        ("Sun, 09 Sep 2001 01:46:00 GMT", 0.5),
        # What cannot be read leaves the flow's own pause.
        ("", 1.0),
        ("-3", 1.0),
        ("1.5", 1.0),
        ("٣", 1.0),
        ("Sun, 99 Sep 2001 01:47:00 GMT", 1.0),
        ("Sun, 09 Sep 20001 01:47:00 GMT", 1.0),
    ],
)
def test_retry_after_in_either_form(header: str, seconds: float) -> None:
    assert wait_after(Answer(429, {"retry-after": header}, b"")) == seconds


def test_a_date_without_a_zone_is_gmt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        assert asked_wait_s("Sun Sep  9 01:47:00 2001", lambda: NOW_S) == 20
    finally:
        monkeypatch.undo()
        time.tzset()


@given(st.text())
def test_any_header_is_a_wait_or_nothing(header: str) -> None:
    wait_s = asked_wait_s(header, lambda: NOW_S)
    assert wait_s is None or wait_s >= 0


@given(st.binary() | st.builds(str.encode, st.text()))
def test_any_body_is_a_ranking_or_nonsense(body: bytes) -> None:
    with pytest.raises(MakesNoSense):
        read_ranking(body, 2, None)
    assert len(server_message(body)) <= 301


@given(st.lists(st.floats(), max_size=4), st.lists(st.integers(-1, 4), max_size=4))
def test_a_ranking_that_is_read_is_whole(scores: list[float], order: list[int]) -> None:
    body = f'{{"scores":{scores},"ranked_indices":{order}}}'.encode()
    try:
        result = read_ranking(body, 2, None)
    except MakesNoSense:
        return
    assert result.scores == scores
    assert sorted(result.ranked_indices) == [0, 1]
    assert all(math.isfinite(score) for score in result.scores)


@pytest.mark.parametrize("header", ["61", "9" * 400, "Sun, 09 Sep 2001 02:46:40 GMT"])
def test_nobody_waits_longer_than_a_minute(header: str) -> None:
    running = flow()
    next(running)
    with pytest.raises(RerankError, match="attempt 1 of 3"):
        running.send(Answer(503, {"retry-after": header}, b""))


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"message":"m","detail":"d","error":{"message":"e"}}', "m"),
        (b'{"detail":"d","error":{"message":"e","type":"t"}}', "e"),
        (b'{"error":"e","error_type":"Validation"}', "e"),
        (b'{"detail":"d"}', "d"),
        (b'{"detail":[{"loc":["body"]}]}', "no message that could be read"),
        (b'["m"]', "no message that could be read"),
        (b"<html>m</html>", "no message that could be read"),
        (b"[" * 100_000, "no message that could be read"),
        (b'{"message":"a\\nb\\u001b[31m"}', "a b [31m"),
    ],
)
def test_the_servers_words_in_every_dialect(body: bytes, words: str) -> None:
    running = flow()
    next(running)
    with pytest.raises(RerankError) as raised:
        running.send(Answer(400, {}, body))
    assert str(raised.value) == f"POST http://host/rerank: status 400: {words}"


def test_a_long_message_is_shortened() -> None:
    running = flow()
    next(running)
    with pytest.raises(RerankError) as raised:
        running.send(Answer(400, {}, b'{"message":"%s"}' % (b"x" * 10_000)))
    assert len(str(raised.value)) < 400


def test_a_failure_that_cannot_pass_ends_the_flow() -> None:
    running = flow()
    next(running)
    with pytest.raises(RerankError, match="ValueError: bad"):
        running.send(NoAnswer(ValueError("bad"), may_pass=False))


def test_equal_scores_may_stand_in_any_order() -> None:
    running = flow()
    next(running)
    tied = Answer(200, {}, b'{"scores":[3,3],"ranked_indices":[1,0]}')
    assert end_of(running, tied).ranked_indices == [1, 0]


def test_the_fallback_drives_the_same_flow() -> None:
    running = rank_or_keep_order(TARGET, question("q", ["a", "b"], 1))
    next(running)
    assert isinstance(running.send(BUSY), Wait)
    assert isinstance(running.send(None), Send)
    kept = end_of(running, Answer(400, {}, b""))
    assert kept == RerankResult([0.0, 0.0], [0], degraded=True)
