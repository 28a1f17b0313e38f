"""A priority queue whose members may leave it from anywhere."""

from typing import Generic, TypeVar

Key = tuple[float, int]
T = TypeVar("T")


class Heap(Generic[T]):
    """Members by ascending key: a binary heap that knows where each of them stands.

    Every method is O(log n). Nothing of a member that left stays behind, so that no entry has to
    be skipped later.
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
        """Let `member` have this key, whether it is here already or not."""
        entry = (key, member)
        place = self._places.get(member)
        if place is None:
            place = len(self._entries)
            self._entries.append(entry)
        self._settle(place, entry)

    def discard(self, member: T) -> None:
        """Let `member` leave, if it is here."""
        place = self._places.pop(member, None)
        if place is None:
            return
        last = self._entries.pop()
        if place < len(self._entries):
            self._settle(place, last)

    def _settle(self, place: int, entry: tuple[Key, T]) -> None:
        """Put `entry` where it belongs, beginning at `place`, which is free."""
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
