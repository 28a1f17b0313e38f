"""Threads that call the engine and do nothing else.

What comes before a call and after it is done by other threads meanwhile, so that the next call
starts as soon as one ends. A lock around the engine would not do: the thread that releases it goes
on to answer its requests, and the one that waits gets Python's interpreter lock only after that.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")


class EngineThreads:
    """So many daemon threads, for which the process does not wait when it ends."""

    def __init__(self, count: int) -> None:
        self._calls: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
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

    def run(self, call: Callable[[], T]) -> T:
        """What `call` returns, made in its turn: first come, first served. Raises what it
        raises."""
        done: Future[T] = Future()
        self._calls.put((done, call))
        return done.result()

    def alive(self) -> bool:
        """Whether all threads are alive."""
        return all(thread.is_alive() for thread in self._threads)

    def close(self) -> None:
        """End the threads behind the calls that wait; `run` is not called afterwards."""
        for _ in self._threads:
            self._calls.put(None)

    def _run(self) -> None:
        while (waiting := self._calls.get()) is not None:
            done, call = waiting
            try:
                done.set_result(call())
            except BaseException as error:  # whose thread waits for it raises it
                done.set_exception(error)
            del waiting, done, call  # with a call's arrays, until the next one comes
