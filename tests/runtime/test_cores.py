"""Cores that a container's quota leaves."""

from pathlib import Path

import pytest

from runtime.cores import usable_cores, usable_nodes


@pytest.mark.parametrize(
    ("quota", "cores"),
    [("max 100000", 8), ("200000 100000", 2), ("150000 100000", 2), ("50000 100000", 1)],
)
def test_the_quota_bounds_the_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, cores: int
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    file = tmp_path / "cpu.max"
    file.write_text(quota + "\n")
    assert usable_cores(file) == cores


@pytest.mark.parametrize("content", [None, "", "nonsense 100000", "100000 0"])
def test_without_a_quota_the_affinity_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 3, 5})
    file = tmp_path / "cpu.max"
    if content is not None:
        file.write_text(content)
    assert usable_cores(file) == 3


@pytest.fixture
def devices(tmp_path: Path) -> Path:
    """Two nodes with three physical cores each, of two logical ones: 0 and 6, 1 and 7, …"""
    for core in range(12):
        topology = tmp_path / "cpu" / f"cpu{core}" / "topology"
        topology.mkdir(parents=True)
        (topology / "thread_siblings_list").write_text(f"{core % 6},{core % 6 + 6}\n")
    for node, cores in enumerate(("0-2,6-8", "3-5,9-11")):
        folder = tmp_path / "node" / f"node{node}"
        folder.mkdir(parents=True)
        (folder / "cpulist").write_text(cores + "\n")
    (tmp_path / "no-quota").write_text("max 100000\n")
    return tmp_path


@pytest.mark.parametrize(
    ("allowed", "nodes"),
    [
        (range(12), ((0, 1, 2), (3, 4, 5))),
        ({0, 6}, ((0,),)),
        ({2, 4, 5, 11}, ((4, 5), (2,))),
        ({7, 8}, ((7, 8),)),
    ],
)
def test_physical_cores_by_node(
    devices: Path, monkeypatch: pytest.MonkeyPatch, allowed: set[int], nodes: object
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(allowed))
    assert usable_nodes(devices, devices / "no-quota") == nodes


def test_a_quota_counts_as_one_node(devices: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(12)))
    (devices / "quota").write_text("400000 100000\n")
    assert [len(node) for node in usable_nodes(devices, devices / "quota")] == [4]


def test_a_system_that_does_not_describe_itself_is_one_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 4})
    assert usable_nodes(tmp_path, tmp_path / "no-quota") == ((0, 1, 4),)
