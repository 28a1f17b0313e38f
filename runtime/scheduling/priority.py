"""A priority queue that can remove any member."""

import bisect
from typing import Generic, TypeVar

Key = tuple[float, int]
T = TypeVar("T")


class PriorityQueue(Generic[T]):
    """Members by ascending key, no two of which are equal: a sorted list.

    A change takes O(log n) comparisons, and one copy of memory to shift the entries behind it: for
    some thousands of members as long as the steps of a heap in Python. A removed member leaves no
    stale entry behind.
    """

    def __init__(self) -> None:
        self._entries: list[tuple[Key, T]] = []
        self._keys: dict[T, Key] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def first(self) -> tuple[Key, T] | None:
        """The smallest key and its member."""
        return self._entries[0] if self._entries else None

    def key(self, member: T) -> Key:
        """The key of a member. Raises KeyError."""
        return self._keys[member]

    def put(self, member: T, key: Key) -> None:
        """Add `member` with this key, or change its key."""
        self.discard(member)
        self._keys[member] = key
        bisect.insort(self._entries, (key, member))

    def discard(self, member: T) -> None:
        """Remove `member` if it is in the queue."""
        key = self._keys.pop(member, None)
        if key is not None:
            # A tuple is smaller than a longer one that begins alike, so this is the entry's place.
            del self._entries[bisect.bisect_left(self._entries, (key,))]
