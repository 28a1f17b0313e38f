"""Work in a daemon thread, for which the process does not wait when it ends."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


def run_in_daemon(work: Callable[[], T], name: str) -> "Future[T]":
    """Run `work`, which may hang or take long, in a daemon thread called `name`.

    The future cannot be cancelled: the work goes on without its caller. Raises RuntimeError when no
    thread can be started.
    """
    done: Future[T] = Future()
    done.set_running_or_notify_cancel()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return done
