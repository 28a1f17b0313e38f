"""A priority queue that can remove any member."""

from typing import Generic, TypeVar

Key = tuple[float, int]
T = TypeVar("T")


class Heap(Generic[T]):
    """Members by ascending key: a binary heap with an index of its members' places.

    Every method is O(log n). A removed member leaves no stale entry behind.
    """

    def __init__(self) -> None:
        self._entries: list[tuple[Key, T]] = []
        self._places: dict[T, int] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def first(self) -> tuple[Key, T] | None:
        """The smallest key and its member."""
        return self._entries[0] if self._entries else None

    def key(self, member: T) -> Key:
        """The key of a member. Raises KeyError."""
        return self._entries[self._places[member]][0]

    def put(self, member: T, key: Key) -> None:
        """Add `member` with this key, or change its key."""
        entry = (key, member)
        place = self._places.get(member)
        if place is None:
            place = len(self._entries)
            self._entries.append(entry)
        self._settle(place, entry)

    def discard(self, member: T) -> None:
        """Remove `member` if it is in the heap."""
        place = self._places.pop(member, None)
        if place is None:
            return
        last = self._entries.pop()
        if place < len(self._entries):
            self._settle(place, last)

    def _settle(self, place: int, entry: tuple[Key, T]) -> None:
        """Sift `entry` up or down from `place`, which is free."""
        key = entry[0]
        while place and key < self._entries[(place - 1) // 2][0]:
            parent = (place - 1) // 2
            self._set(place, self._entries[parent])
            place = parent
        while (child := self._smaller_child(place)) is not None and self._entries[child][0] < key:
            self._set(place, self._entries[child])
            place = child
        self._set(place, entry)

    def _smaller_child(self, place: int) -> int | None:
        left, right = 2 * place + 1, 2 * place + 2
        if left >= len(self._entries):
            return None
        if right < len(self._entries) and self._entries[right][0] < self._entries[left][0]:
            return right
        return left

    def _set(self, place: int, entry: tuple[Key, T]) -> None:
        self._entries[place] = entry
        self._places[entry[1]] = place
