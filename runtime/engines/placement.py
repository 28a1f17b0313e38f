"""How many calls a CPU runs at the same time, with how many threads each, and on which cores.

`place` is pure: a function of the cores, their NUMA nodes and the size of the weights.
docs/targets.md has its table and its reasons. `rerank-export tune` measures whether fewer
concurrent calls are faster.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path

from runtime.cores import Cores, usable_nodes

# Up to this size a second copy of the weights is worth its memory, and single-threaded calls are
# faster than one on all cores. Matrix products of larger models keep all cores busy by themselves.
_SMALL_BYTES = 256 << 20
# The layers of a small model are too short for more threads: they would wait for each other.
_MOST_THREADS = 16


@dataclass(frozen=True)
class Lane:
    """One call at a time with `threads` threads, which may run on `cores`."""

    cores: Cores
    threads: int


@dataclass(frozen=True)
class Placement:
    """`alone` is for a call beside which none runs, `lanes` are for concurrent ones. `pinned` says
    whether a lane's threads must be kept on its cores, because others are on another node."""

    alone: Lane
    lanes: tuple[Lane, ...]
    pinned: bool


def place(nodes: Sequence[Cores], weight_bytes: int) -> Placement:
    """Lanes for a graph of so many bytes of weights on `nodes`, the largest first.

    A small model has a single-threaded lane on each core, in turn on each node. A large one has a
    lane on each node, with all cores of the node. No call spans two nodes: its threads would wait
    for each other's memory.
    """
    largest = nodes[0]
    if weight_bytes > _SMALL_BYTES:
        lanes = tuple(Lane(node, len(node)) for node in nodes)
        return Placement(lanes[0], lanes, pinned=len(nodes) > 1)
    in_turn = zip_longest(*([Lane(node, 1)] * len(node) for node in nodes))
    singles = tuple(lane for lane in chain.from_iterable(in_turn) if lane is not None)
    alone = Lane(largest, min(len(largest), _MOST_THREADS))
    return Placement(alone, singles, pinned=len(nodes) > 1)


def place_here(model_file: Path) -> Placement:
    """`place` on this machine for a graph, whose weights may lie in files beside it."""
    parts = model_file.parent.glob(f"{model_file.name}*")
    return place(usable_nodes(), sum(file.stat().st_size for file in parts if file.is_file()))
