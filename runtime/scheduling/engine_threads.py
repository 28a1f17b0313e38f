"""Threads that call the engine and do nothing else.

What comes before a call and after it is done by other threads meanwhile, so that the next call
starts as soon as one ends. A lock around the engine would not do: the thread that releases it goes
on to answer its requests, and the one that waits gets Python's interpreter lock only after that.

Calls are made in the order of their batches' numbers, not in the order in which they are prepared:
a batch that was taken later waits for one that was taken earlier.
"""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from runtime.errors import EngineThreadEnded

_log = logging.getLogger(__name__)

T = TypeVar("T")
_Call = tuple[Future[Any], Callable[[], Any]]


class EngineThreads:
    """So many daemon threads, for which the process does not wait when it ends. Batches are
    numbered from 0 on, without a gap."""

    def __init__(self, count: int) -> None:
        self._changed = threading.Condition()
        self._calls: dict[int, _Call] = {}  # those that wait, by the number of their batch
        self._next = 0  # the first batch that has neither made a call nor ended without one
        self._over: set[int] = set()  # those behind it that have ended without one
        self._is_closed = False
        self._has_failed = False
        self._threads = [
            threading.Thread(target=self._run, name=f"engine-{number}", daemon=True)
            for number in range(count)
        ]
        try:
            for thread in self._threads:
                thread.start()
        except BaseException:  # no more threads: end those that have started
            self.close()
            raise

    def run(self, number: int, call: Callable[[], T]) -> T:
        """What `call` returns, made when all batches before this `number` have made one or are
        over; a second call of a batch, such as that of a half, goes first. Raises what it raises,
        and EngineThreadEnded when one of the threads has ended by an error."""
        done: Future[T] = Future()
        with self._changed:
            if self._has_failed:
                raise EngineThreadEnded
            self._calls[number] = done, call
            self._changed.notify_all()
        return done.result()

    def over(self, number: int) -> None:
        """The batch of this number makes no call any more."""
        with self._changed:
            if number >= self._next:
                self._over.add(number)
                self._skip()
                self._changed.notify_all()

    def alive(self) -> bool:
        """Whether all threads are alive."""
        return all(thread.is_alive() for thread in self._threads)

    def close(self) -> None:
        """End the threads when no call waits; `run` is not called afterwards."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def _run(self) -> None:
        try:
            while (waiting := self._take()) is not None:
                done, call = waiting
                try:
                    done.set_result(call())
                except BaseException as error:  # whose thread waits for it raises it
                    done.set_exception(error)
                del waiting, done, call  # with a call's arrays, until the next one comes
        except BaseException:  # nobody may wait for a thread that is gone
            with self._changed:
                self._has_failed = True
                left = [self._calls.pop(number) for number in list(self._calls)]
            for done, _ in left:
                done.set_exception(EngineThreadEnded())
            _log.critical("a thread that calls the engine ended", exc_info=True)

    def _take(self) -> _Call | None:
        """Wait for the next call in turn; None once the threads are closed and none waits."""
        with self._changed:
            while (number := min(self._calls, default=None)) is None or number > self._next:
                if self._is_closed and number is None:
                    return None
                self._changed.wait()
            if number == self._next:
                self._next += 1
                self._skip()
                self._changed.notify_all()
            return self._calls.pop(number)

    def _skip(self) -> None:
        """Pass over the batches that are over; the lock is held."""
        while self._next in self._over:
            self._over.remove(self._next)
            self._next += 1
