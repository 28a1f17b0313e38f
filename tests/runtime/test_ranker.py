"""The façade on a real ONNX Runtime session and on the mock."""

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from runtime.engines.mock import MockEngine
from runtime.errors import (
    ArtifactError,
    DeadlineExceeded,
    InputTooLong,
    ModelClosed,
    NonFiniteScore,
)
from runtime.opening import mock_model, open_ranker
from runtime.ranker import Ranker
from runtime.requests import RankRequest
from runtime.text import Encodings
from tests.runtime.conftest import write_bare_directory
from tests.runtime.held_engine import HeldEngine
from tests.waiting import PATIENCE_S

PASSAGES = ["because", "b", "a much longer passage " * 9, "ümlaut", "b"]


@pytest.fixture
def ranker(bare_directory: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ranker]:
    monkeypatch.setattr("runtime.engines.placement.usable_nodes", lambda: ((0, 1),))
    opened = open_ranker(bare_directory)
    yield opened
    opened.close()


def expected(ranker: Ranker, passage: str) -> float:
    return float(ranker.encoder.encode(RankRequest("why", [passage])).rows[0].token_ids.sum()) / 100


def test_scores_are_the_graphs_and_order_is_descending(ranker: Ranker) -> None:
    ranking = ranker.rank(RankRequest("why", PASSAGES))
    assert ranking.logits == pytest.approx([expected(ranker, p) for p in PASSAGES], rel=1e-6)
    assert ranking.order.tolist() == [2, 3, 0, 1, 4]
    assert ranking.token_counts.tolist() == [
        len(ranker.encoder.encode(RankRequest("why", [p])).rows[0]) for p in PASSAGES
    ]


def test_scores_do_not_depend_on_neighbours(ranker: Ranker) -> None:
    together = ranker.rank(RankRequest("why", PASSAGES)).logits
    alone = np.concatenate([ranker.rank(RankRequest("why", [p])).logits for p in PASSAGES])
    backwards = ranker.rank(RankRequest("why", PASSAGES[::-1])).logits[::-1]
    assert np.array_equal(together, alone)
    assert np.array_equal(together, backwards)


def test_many_async_callers_share_engine_calls(
    ranker: Ranker, monkeypatch: pytest.MonkeyPatch
) -> None:
    passages = PASSAGES * 20
    engine = HeldEngine(ranker, monkeypatch)

    async def all_at_once() -> list[float]:
        callers = asyncio.gather(*(ranker.rank_async(RankRequest("why", [p])) for p in passages))
        await engine.let_go_after(len(passages))
        return [float(r.logits[0]) for r in await callers]

    found = asyncio.run(all_at_once())
    assert found == pytest.approx([expected(ranker, p) for p in passages], rel=1e-6)
    assert (
        ranker.scheduler.stats().execution_count
        < ranker.scheduler.stats().inference_count
        == len(passages)
    )


def test_truncation_is_reported(ranker: Ranker) -> None:
    long = "x" * 9000
    with pytest.raises(InputTooLong, match="9025 exceeds maximum allowed token size 8192"):
        ranker.rank(RankRequest("why", ["b", long]))
    ranking = ranker.rank(RankRequest("why", ["b", long], truncate="END"))
    assert ranking.truncated == 1
    assert ranking.token_counts.tolist() == [26, 8192]


def test_a_deadline_in_the_past(ranker: Ranker) -> None:
    with pytest.raises(DeadlineExceeded):
        ranker.rank(RankRequest("why", ["b"], deadline=time.monotonic() - 1))
    with pytest.raises(DeadlineExceeded):
        asyncio.run(ranker.rank_async(RankRequest("why", ["b"], deadline=time.monotonic() - 1)))


def test_infinity_is_an_error(tmp_path: Path) -> None:
    ranker = open_ranker(write_bare_directory(tmp_path / "inf", divisor=0.0))
    with pytest.raises(NonFiniteScore):
        ranker.warm_up()
    ranker.close()


def test_a_graph_with_other_inputs_is_refused_by_name(tmp_path: Path) -> None:
    directory = write_bare_directory(tmp_path / "x", "pixel_values")
    with pytest.raises(ArtifactError, match="pixel_values"):
        open_ranker(directory)


def test_the_deadline_covers_tokenising(ranker: Ranker, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer comes at the deadline, though the texts are still being tokenised."""
    over = threading.Event()
    encode = ranker.encoder.encode

    def held(*arguments: Any, **more: Any) -> Encodings:
        assert over.wait(PATIENCE_S)
        return encode(*arguments, **more)

    async def ask() -> None:
        with pytest.raises(DeadlineExceeded):
            await ranker.rank_async(RankRequest("why", PASSAGES, deadline=time.monotonic() + 0.1))
        assert not over.is_set()
        over.set()

    monkeypatch.setattr(ranker.encoder, "encode", held)
    asyncio.run(ask())
    ranker.close()
    assert ranker.scheduler.stats().inference_count == 0


def test_timing_adds_up(ranker: Ranker) -> None:
    timing = ranker.rank(RankRequest("why", PASSAGES)).timing
    parts = timing.tokenize_ms + timing.queue_ms + timing.engine_ms
    assert 0 < parts <= timing.total_ms


def test_the_mock_is_deterministic_and_says_what_it_is() -> None:
    first, second = mock_model("rank"), mock_model("rank")
    first.warm_up()
    assert first.info.mock
    assert not first.info.proven
    assert np.array_equal(
        first.rank(RankRequest("why", PASSAGES)).logits,
        second.rank(RankRequest("why", PASSAGES)).logits,
    )
    assert (
        first.rank(RankRequest("why", ["b"])).logits[0]
        == first.rank(RankRequest("why", PASSAGES)).logits[4]
    )
    assert first.info.max_tokens == 8192
    first.close()
    second.close()


def test_a_repeated_passage_is_computed_once(ranker: Ranker) -> None:
    before = ranker.scheduler.stats().inference_count
    ranking = ranker.rank(RankRequest("a question", ["one", "two", "one", "one"]))
    assert ranker.scheduler.stats().inference_count - before == 2
    assert ranking.logits[0] == ranking.logits[2] == ranking.logits[3]
    assert ranking.logits[1] == ranker.rank(RankRequest("a question", ["two"])).logits[0]
    assert len(ranking.token_counts) == 4


def test_work_of_others_does_not_keep_texts_from_being_tokenised(ranker: Ranker) -> None:
    over = threading.Event()

    async def ask() -> float:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(1))
        loop.run_in_executor(None, over.wait)
        try:
            ranking = await asyncio.wait_for(
                ranker.rank_async(RankRequest("why", ["because"])), PATIENCE_S
            )
        finally:
            over.set()
        return float(ranking.logits[0])

    assert asyncio.run(ask()) == pytest.approx(expected(ranker, "because"), rel=1e-6)


def test_a_ranker_in_use_is_not_idle(ranker: Ranker) -> None:
    assert ranker.idle()
    with ranker.in_use():
        with ranker.in_use():
            pass
        assert not ranker.idle()
    assert ranker.idle()


def test_the_engine_is_closed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[object] = []
    monkeypatch.setattr(MockEngine, "close", lambda engine: closed.append(engine))
    ranker = cast(Ranker, mock_model("rank"))
    threads = [threading.Thread(target=ranker.close) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(closed) == 1
    with pytest.raises(ModelClosed):
        asyncio.run(ranker.rank_async(RankRequest("why", ["because"])))
