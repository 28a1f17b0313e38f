"""Texts that nobody waits for any more are not tokenised to the end."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any, cast

import pytest

from runtime import parts as parts_module
from runtime.embedder import Embedder
from runtime.errors import ModelClosed
from runtime.model import Model
from runtime.opening import mock_model
from runtime.ranker import Ranker
from runtime.requests import NO_LIMITS, EmbedRequest, RankRequest, TokenLimits
from runtime.text import Encoding, PairEncoder
from tests.waiting import PATIENCE_S

TEXTS = ["because", "of", "many", "texts"]


class Held:
    """Holds the first chunk that is tokenised until it is let go, and counts chunks."""

    def __init__(self) -> None:
        self.chunks = 0
        self.free = threading.Event()
        self._encode = PairEncoder._encode_chunk

    def __call__(self, encoder: PairEncoder, pairs: Sequence[tuple[str, str]]) -> list[Encoding]:
        self.chunks += 1
        assert self.free.wait(PATIENCE_S)
        return self._encode(encoder, pairs)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    """A chunk holds one text."""
    holding = Held()
    monkeypatch.setattr(parts_module, "CHUNK_CHARS", 1)
    monkeypatch.setattr(
        PairEncoder, "_encode_chunk", lambda encoder, pairs: holding(encoder, pairs)
    )
    yield holding
    holding.free.set()


@pytest.fixture
def ranker() -> Iterator[Ranker]:
    model = cast(Ranker, mock_model("rank"))
    yield model
    model.close()


@pytest.fixture
def embedder() -> Iterator[Embedder]:
    model = cast(Embedder, mock_model("embed"))
    yield model
    model.close()


def end(model: Model) -> None:
    """Until its threads have done what they had begun."""
    for threads in (model._tokenizer_pool._threads, model._tokenizer_pool._listing_thread):
        threads.shutdown(wait=True)


async def cancel(work: Coroutine[Any, Any, Any], begun: Callable[[], bool]) -> None:
    """Leave `work` when it has begun."""
    task = asyncio.ensure_future(work)
    async with asyncio.timeout(PATIENCE_S):
        while not begun():
            await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_a_ranking_that_is_left(ranker: Ranker, held: Held) -> None:
    asyncio.run(cancel(ranker.rank_async(RankRequest("why", TEXTS)), lambda: held.chunks > 0))
    assert ranker.idle()  # its room is free at once
    held.free.set()
    end(ranker)
    assert held.chunks == 1


def test_pairs_that_are_left(ranker: Ranker, held: Held) -> None:
    asyncio.run(cancel(ranker.rank_async(RankRequest(TEXTS, TEXTS)), lambda: held.chunks > 0))
    held.free.set()
    end(ranker)
    assert held.chunks == 1


def test_embeddings_that_are_left(embedder: Embedder, held: Held) -> None:
    work = embedder.embed_async(EmbedRequest(TEXTS, "query"))
    asyncio.run(cancel(work, lambda: held.chunks > 0))
    held.free.set()
    end(embedder)
    assert held.chunks == 1


def test_a_model_that_closes_ends_what_is_tokenised(ranker: Ranker, held: Held) -> None:
    async def ask() -> None:
        task = asyncio.ensure_future(ranker.rank_async(RankRequest("why", TEXTS)))
        async with asyncio.timeout(PATIENCE_S):
            while not held.chunks:
                await asyncio.sleep(0.001)
        ranker.close()
        held.free.set()
        with pytest.raises(ModelClosed):
            await task

    asyncio.run(ask())
    assert held.chunks == 1


def test_tokens_that_are_left(ranker: Ranker) -> None:
    taken, free = [], threading.Event()

    def use(found: Iterator[Any]) -> None:
        for tokens in found:
            taken.append(tokens)
            assert free.wait(PATIENCE_S)

    work = ranker.tokenize_async(TEXTS, use, add_special_tokens=True)
    asyncio.run(cancel(work, lambda: len(taken) > 0))
    assert ranker.idle()
    free.set()
    end(ranker)
    assert len(taken) == 1


def test_tokens_of_a_closed_model(ranker: Ranker) -> None:
    ranker.close()
    with pytest.raises(ModelClosed):
        asyncio.run(ranker.tokenize_async(TEXTS, list, add_special_tokens=True))


LONG = [f"{number} {'word ' * 500}" for number in range(4)]


def reckoned(model: Model, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tokens each request was expected to have."""
    found: list[int] = []
    admit = model.scheduler.admit

    def watched(rows: int, tokens: int, *rest: Any, **more: Any) -> Any:
        found.append(tokens)
        return admit(rows, tokens, *rest, **more)

    monkeypatch.setattr(model.scheduler, "admit", watched)
    return found


def check_reckoning(found: list[int]) -> None:
    """The second of three like requests had a limit of 64 tokens a row."""
    assert found[0] > 2000
    assert found[1] == len(LONG) * 64
    assert found[2] >= found[0], "it was learned from what had been cut"


def test_what_a_limit_cuts_off_a_pair_is_not_expected(
    ranker: Ranker, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = reckoned(ranker, monkeypatch)
    for limit in (None, 64, None):
        ranker.rank(RankRequest("why", LONG, truncate="END", limits=TokenLimits(pair=limit)))
    check_reckoning(found)


def test_what_a_limit_cuts_off_a_text_is_not_expected(
    embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = reckoned(embedder, monkeypatch)
    for limit in (None, 64, None):
        embedder.embed(EmbedRequest(LONG, "query", truncate="END", limits=TokenLimits(pair=limit)))
    check_reckoning(found)


def test_what_a_limit_cuts_off_each_text_is_not_expected(
    ranker: Ranker, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = reckoned(ranker, monkeypatch)
    for limits in (NO_LIMITS, *[TokenLimits(query=2, passage=8)] * 16, NO_LIMITS):
        ranker.rank(RankRequest(LONG[0], LONG, truncate="END", limits=limits))
        ranker.rank(RankRequest("why", ["because"]))  # whose tokens are as many as before
    expected = found[::2]
    assert set(expected[1:-1]) == {len(LONG) * (2 + 8)}
    assert expected[-1] >= expected[0], "it was learned from what had been cut"


def test_nothing_is_learned_from_what_the_engine_s_bound_cuts(
    ranker: Ranker, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = reckoned(ranker, monkeypatch)
    vast = "word " * ranker.info.max_tokens
    for texts in (LONG, [vast], [vast], LONG):
        ranker.rank(RankRequest("why", texts, truncate="END"))
    assert found[1] == found[2] == ranker.info.max_tokens
    assert found[3] > found[0], "bytes are more than were expected at first"


def test_each_text_is_expected_to_have_no_more_than_is_taken(
    ranker: Ranker, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = reckoned(ranker, monkeypatch)
    ranker.rank(RankRequest("why", ["word " * ranker.info.max_tokens, *["ok"] * 9], truncate="END"))
    assert found[0] < ranker.info.max_tokens + 50
