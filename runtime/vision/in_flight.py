"""Images that one request computes while others wait for them: the tower computes a page once, also
when many queries for it arrive at the same time."""

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field

from runtime.requests import ImageEmbeddings

# None where the request that computed the image has failed or ended.
Awaited = Future[ImageEmbeddings | None]


@dataclass
class Claim:
    """The images that a request computes itself, those that others are computing, and those that
    have been `found` meanwhile; by digest."""

    own: dict[bytes, Awaited] = field(default_factory=dict)
    others: dict[bytes, Awaited] = field(default_factory=dict)
    found: list[ImageEmbeddings] = field(default_factory=list)


class InFlight:
    """Safe to call from several threads. `find` looks for an image among those that are kept; who
    computes one must keep it before `finish`."""

    def __init__(self, find: Callable[[bytes], ImageEmbeddings | None]) -> None:
        self._find = find
        self._computing: dict[bytes, Awaited] = {}
        self._lock = threading.Lock()

    @contextmanager
    def claim(self, digests: Iterable[bytes]) -> Iterator[Claim]:
        """Claim the images that nobody computes, for the length of the block. Afterwards those that
        wait for one that has no result get None, and one of them computes it.

        Who waits does so after the block: two requests could wait for each other in it.
        """
        claim = Claim()
        with self._lock:
            for digest in digests:
                if digest in self._computing:
                    claim.others[digest] = self._computing[digest]
                elif image := self._find(digest):
                    claim.found.append(image)
                else:
                    claim.own[digest] = self._computing[digest] = Future()
        try:
            yield claim
        finally:
            for digest, awaited in claim.own.items():
                self.finish(digest, awaited, None)

    def finish(self, digest: bytes, awaited: Awaited, image: ImageEmbeddings | None) -> None:
        """Give those that wait for a claimed image its embeddings, or None; only once."""
        with self._lock:
            if self._computing.get(digest) is not awaited:
                return
            del self._computing[digest]
        awaited.set_result(image)
