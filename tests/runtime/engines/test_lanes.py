"""Calls beside each other: which way each takes, and that all give the same."""

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.engines import lanes as lanes_module
from runtime.engines import open_engine
from runtime.engines.lanes import Lanes, open_lanes
from runtime.engines.placement import Lane, Placement, place
from tests.runtime.clock import Clock


def test_a_call_that_is_alone_takes_the_wide_way_and_the_others_narrow_ones() -> None:
    clock = Clock()
    lanes = Lanes("wide", ["first", "second"], clock)
    assert lanes.count == 2
    with ExitStack() as first, ExitStack() as second:
        assert first.enter_context(lanes.take()) == "wide"
        one = second.enter_context(lanes.take())
        assert one != "wide"
        first.close()
        with lanes.take() as other:
            assert {one, other} == {"first", "second"}
    with lanes.take() as way:
        assert way != "wide"  # the others are only between two calls
    clock.advance(lanes_module._CROWDED_S + 0.01)
    with lanes.take() as way:
        assert way == "wide"


def test_a_way_comes_back_after_an_error() -> None:
    clock = Clock()
    lanes = Lanes("wide", ["narrow", "other"], clock)
    for _ in range(3):
        with lanes.take(), pytest.raises(ValueError, match="no"), lanes.take():
            raise ValueError("no")
    clock.advance(1)
    with lanes.take() as way:
        assert way == "wide"


def test_one_lane_has_the_wide_way_only() -> None:
    lanes = Lanes("wide")
    assert lanes.count == 1
    with lanes.take() as way:
        assert way == "wide"


def test_the_first_lane_may_be_the_wide_one() -> None:
    """As a large model has it on two nodes: two calls never share a lane."""
    clock = Clock()
    lanes = Lanes("first", ["first", "second"], clock)
    with lanes.take() as one, lanes.take() as two:
        assert (one, two) == ("first", "second")
    with lanes.take() as one, lanes.take() as two:
        assert {one, two} == {"first", "second"}


def opened_with(placement: Placement) -> tuple[Lanes[Any], list[tuple[int, set[int]]]]:
    """The lanes of `placement`, and threads and allowed cores of each session that was opened."""
    opened: list[tuple[int, set[int]]] = []

    class Session:
        def run(self) -> set[int]:
            return os.sched_getaffinity(0)

    def open_session(threads: int) -> Session:
        opened.append((threads, os.sched_getaffinity(0)))
        return Session()

    return open_lanes(placement, open_session), opened


def test_lanes_on_the_same_cores_share_a_session() -> None:
    lanes, opened = opened_with(place([(0, 1, 2)], 1000))
    assert lanes.count == 3
    assert [threads for threads, _ in opened] == [3, 1]


def test_a_single_core_has_a_single_session() -> None:
    lanes, opened = opened_with(place([(0,)], 1000))
    assert lanes.count == 1
    assert [threads for threads, _ in opened] == [1]


def test_a_lane_stays_on_its_node_and_the_caller_does_not() -> None:
    here = os.sched_getaffinity(0)
    core = min(here)
    lanes, opened = opened_with(Placement(Lane((core,), 1), (Lane((core,), 1),) * 2, pinned=True))
    assert opened == [(1, {core})]
    with lanes.take() as session:
        assert session.run() == {core}
    assert os.sched_getaffinity(0) == here


@pytest.mark.parametrize("name", ["onnxruntime-cpu", "openvino-fp32"])
def test_all_ways_give_the_same(
    rank_artifact: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("runtime.engines.placement.usable_nodes", lambda: ((0, 1, 2),))
    engine: Any = open_engine(name, rank_artifact)
    assert engine.lanes == 3
    random = np.random.default_rng(0)
    rows = [random.integers(1, 40, (1, length)) for length in (3, 17, 40, 64) for _ in range(8)]
    inputs = [{"input_ids": ids, "attention_mask": np.ones_like(ids)} for ids in rows]
    inputs = [{name: one[name] for name in engine.input_names} for one in inputs]
    alone = [engine.run(one)["logits"] for one in inputs]
    # While another call has the wide way, these take the narrow ones: two at a time, of three.
    with engine._lanes.take(), ThreadPoolExecutor(2) as callers:
        together = list(callers.map(lambda one: engine.run(one)["logits"], inputs))
    np.testing.assert_array_equal(np.concatenate(together), np.concatenate(alone))
    engine.close()
