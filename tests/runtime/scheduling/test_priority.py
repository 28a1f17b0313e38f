"""A priority queue whose members may leave."""

import math

from hypothesis import given
from hypothesis import strategies as st

from runtime.scheduling.priority import PriorityQueue

STEPS = st.lists(st.tuples(st.integers(0, 20), st.none() | st.integers(0, 9)), max_size=200)


@given(STEPS)
def test_the_first_is_always_the_smallest(steps: list[tuple[int, int | None]]) -> None:
    """Members 0 to 20 are put with a key, or discarded, in any order."""
    queue: PriorityQueue[int] = PriorityQueue()
    known: dict[int, tuple[float, int]] = {}
    for member, key in steps:
        if key is None:
            queue.discard(member)
            known.pop(member, None)
        else:
            queue.put(member, (key, member))
            known[member] = (key, member)
        assert len(queue) == len(known)
        first = min((key, member) for member, key in known.items()) if known else None
        assert queue.first() == first
    assert all(queue.key(member) == key for member, key in known.items())


class Counted(float):
    """A number that counts how often it is compared."""

    compared = 0

    def __lt__(self, other: object) -> bool:
        Counted.compared += 1
        return float(self) < float(other)  # type: ignore[arg-type]


def test_members_come_and_go_in_few_comparisons() -> None:
    queue: PriorityQueue[int] = PriorityQueue()
    count = 4096
    for member in range(count):
        queue.put(member, (Counted(member * 2654435761 % count), member))
    for member in range(count):
        queue.discard(member)
    assert len(queue) == 0
    assert Counted.compared < 2 * count * 3 * math.log2(count)
