"""How many calls run at the same time on which machine: the table of docs/targets.md."""

import re
from pathlib import Path

import pytest

from runtime.engines.placement import place, place_here

DOCS = Path(__file__).parents[3] / "docs" / "targets.md"
MIB = 1 << 20
ROW = re.compile(r"\| (\d+)(?: on (\d+) nodes)? \| (small|large) \| (\d+) \| (\d+) × (\d+) \|")


def nodes_of(cores: int, nodes: int) -> list[tuple[int, ...]]:
    size = cores // nodes
    return [tuple(range(node * size, (node + 1) * size)) for node in range(nodes)]


def documented() -> list[tuple[str, ...]]:
    return [found.groups(default="1") for found in ROW.finditer(DOCS.read_text())]


def test_the_table_has_the_cases_that_people_look_for() -> None:
    found = {(row[0], row[2]) for row in documented()}
    assert found == {
        (cores, size) for cores in ("2", "8", "32", "96") for size in ("small", "large")
    }


@pytest.mark.parametrize(("cores", "nodes", "size", "alone", "lanes", "threads"), documented())
def test_the_table_is_true(
    cores: str, nodes: str, size: str, alone: str, lanes: str, threads: str
) -> None:
    weights = {"small": 90 * MIB, "large": 4800 * MIB}[size]
    placement = place(nodes_of(int(cores), int(nodes)), weights)
    assert placement.alone.threads == int(alone)
    assert len(placement.lanes) == int(lanes)
    assert {lane.threads for lane in placement.lanes} == {int(threads)}
    assert placement.pinned == (nodes != "1")


@pytest.mark.parametrize("weights", [90 * MIB, 4800 * MIB])
def test_no_lane_spans_two_nodes(weights: int) -> None:
    nodes = nodes_of(96, 2)
    placement = place(nodes, weights)
    for lane in (placement.alone, *placement.lanes):
        assert lane.cores in nodes
    first, second = placement.lanes[:2]
    assert first.cores != second.cores


def test_a_node_with_few_cores_is_not_the_one_of_a_call_alone() -> None:
    placement = place([(0, 1, 2, 3, 4, 5), (8, 9)], 90 * MIB)
    assert placement.alone.cores == (0, 1, 2, 3, 4, 5)
    assert len(placement.lanes) == 8


def test_weights_beside_the_graph_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.engines.placement.usable_nodes", lambda: ((0, 1, 2, 3),))
    graph = tmp_path / "model.onnx"
    graph.write_bytes(b"graph")
    assert len(place_here(graph).lanes) == 4
    with (tmp_path / "model.onnx.data").open("wb") as weights:
        weights.truncate(300 * MIB)
    assert len(place_here(graph).lanes) == 1
