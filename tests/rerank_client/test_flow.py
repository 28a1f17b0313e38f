"""The retry flow without I/O: its steps, one by one."""

import math
import time
from collections.abc import Callable

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
from rerank_client.backoff import parse_retry_after
from rerank_client.errors import RerankError
from rerank_client.flow import TIMEOUT_S, Flow, Send, Wait, rank, rank_or_keep_order
from rerank_client.question import question
from rerank_client.result import RerankResult
from rerank_client.target import find_target

TARGET = find_target("http://host", None)
ASKED = question("q", ["a", "b"], None)
GOOD = Answer(200, {}, b'{"scores":[-1.5,2],"ranked_indices":[1,0]}')
BUSY = Answer(503, {}, b"")
NOW_S = 1_000_000_000.0  # Sun, 09 Sep 2001 01:46:40 GMT
Clock = Callable[[], float]
FROZEN: Clock = lambda: 0.0  # noqa: E731
BROKEN = NoAnswer(ConnectionError("gone"), retryable=True)


def flow(rand: float = 0.5, timeout_s: float = 1000, clock: Clock = FROZEN) -> Flow:
    return rank(TARGET, ASKED, timeout_s, rand=lambda: rand, now=lambda: NOW_S, clock=clock)


def send(running: Flow, outcome: Answer | NoAnswer | None = None) -> Send:
    step = running.send(outcome)
    assert isinstance(step, Send)
    return step


def end_of(running: Flow, outcome: Answer | NoAnswer) -> RerankResult:
    with pytest.raises(StopIteration) as end:
        running.send(outcome)
    result = end.value.value
    assert isinstance(result, RerankResult)
    return result


def wait_after(outcome: Answer | NoAnswer, rand: float = 0.5) -> float:
    running = flow(rand)
    next(running)
    step = running.send(outcome)
    assert isinstance(step, Wait)
    return step.seconds


def test_the_steps_of_a_call_that_succeeds_last() -> None:
    running = flow()
    first = send(running)
    assert (first.url, first.headers) == ("http://host/rerank", TARGET.headers)
    assert running.send(BUSY) == Wait(1.0)
    assert send(running).body == first.body
    assert running.send(BROKEN) == Wait(2.0)
    assert send(running).body == first.body
    assert end_of(running, GOOD) == RerankResult([-1.5, 2.0], [1, 0])


def test_an_attempt_may_take_what_is_left_and_connecting_a_share_of_it() -> None:
    passed = iter([0.0, 0.0, 30.0, 31.0, 40.0, 42.0]).__next__
    running = flow(timeout_s=60, clock=passed)
    steps = [send(running)]
    for _ in range(2):
        assert isinstance(running.send(BROKEN), Wait)
        steps.append(send(running))
    assert [step.within_s for step in steps] == [60, 29, 18]
    assert [step.connect_s for step in steps] == [20, 14.5, 18]


@pytest.mark.parametrize("passed_s", [57.1, 60.0, 70.0])
@pytest.mark.parametrize("outcome", [BROKEN, BUSY])
def test_what_took_the_whole_limit_is_not_asked_again(
    outcome: Answer | NoAnswer, passed_s: float
) -> None:
    running = flow(timeout_s=60, clock=iter([0.0, 0.0, passed_s]).__next__)
    send(running)
    with pytest.raises(RerankError, match=r"\(attempt 1 of 3, timeout_s: 60\)"):
        running.send(outcome)


@pytest.mark.parametrize("timeout_s", [0.1, 1, 3, 10])
@pytest.mark.parametrize("headers", [{}, {"retry-after": "0"}])
def test_pauses_leave_time_for_every_attempt(timeout_s: float, headers: dict[str, str]) -> None:
    """Immediate refusals are retried twice, however short the limit is."""
    passed_s = 0.0
    running = flow(rand=1.0, timeout_s=timeout_s, clock=lambda: passed_s)
    send(running)
    for _ in range(2):
        step = running.send(Answer(503, headers, b""))
        assert isinstance(step, Wait)
        passed_s += step.seconds
        assert send(running).within_s > timeout_s / 2
    with pytest.raises(RerankError, match="attempt 3 of 3"):
        running.send(BUSY)


@pytest.mark.parametrize(("retry_after", "asked_again"), [("50", True), ("57", False)])
def test_a_wait_that_leaves_no_time_is_an_error_at_once(
    retry_after: str, asked_again: bool
) -> None:
    running = flow(timeout_s=60)
    send(running)
    answer = Answer(503, {"retry-after": retry_after}, b"")
    if asked_again:
        step = running.send(answer)
        assert isinstance(step, Wait)
        assert 50 <= step.seconds <= 51
        return
    with pytest.raises(RerankError, match=r"retry-after: 57, timeout_s: 60\)"):
        running.send(answer)


def test_an_answer_may_repeat_the_request() -> None:
    step = send(flow())
    assert step.max_bytes == (128 << 10) + 2 * 1024 + 6 * ASKED.text_bytes


def test_the_last_failure_is_the_one_that_is_told() -> None:
    running = flow()
    next(running)
    for outcome in (BROKEN, BUSY):
        assert isinstance(running.send(outcome), Wait)
        running.send(None)
    with pytest.raises(RerankError, match=r"ConnectionError: gone \(attempt 3 of 3\)") as raised:
        running.send(BROKEN)
    assert raised.value.__cause__ is BROKEN.error


@pytest.mark.parametrize(("rand", "seconds"), [(0.0, 0.5), (0.5, 1.0), (1.0, 1.5)])
def test_jitter_is_half_to_one_and_a_half_times(rand: float, seconds: float) -> None:
    assert wait_after(BUSY, rand) == seconds


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("12", 12.5),
        (" 12 ", 12.5),
        ("60", 60.5),
        ("Sun, 09 Sep 2001 01:47:00 GMT", 20.5),
        ("Sun, 09 Sep 2001 03:47:00 +0200", 20.5),
        ("Sun, 09 Sep 2001 01:46:00 GMT", 0.5),
        # An unreadable header: the flow uses its own delay.
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
        assert parse_retry_after("Sun Sep  9 01:47:00 2001", lambda: NOW_S) == 20
    finally:
        monkeypatch.undo()
        time.tzset()


@given(st.text())
def test_any_header_is_a_wait_or_nothing(header: str) -> None:
    seconds = parse_retry_after(header, lambda: NOW_S)
    assert seconds is None or seconds >= 0


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
        (b'{"detail":[{"loc":["body"]}]}', "no readable message"),
        (b'["m"]', "no readable message"),
        (b"<html>m</html>", "no readable message"),
        (b"[" * 100_000, "no readable message"),
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
        running.send(NoAnswer(ValueError("bad"), retryable=False))


def test_equal_scores_may_stand_in_any_order() -> None:
    running = flow()
    next(running)
    tied = Answer(200, {}, b'{"scores":[3,3],"ranked_indices":[1,0]}')
    assert end_of(running, tied).ranked_indices == [1, 0]


def test_the_fallback_drives_the_same_flow() -> None:
    running = rank_or_keep_order(TARGET, question("q", ["a", "b"], 1), TIMEOUT_S)
    next(running)
    assert isinstance(running.send(BUSY), Wait)
    assert isinstance(running.send(None), Send)
    kept = end_of(running, Answer(400, {}, b""))
    assert kept == RerankResult([0.0, 0.0], [0], degraded=True)
