"""Work in a thread that no process waits for when it ends."""

import threading
from collections.abc import Callable
from concurrent.futures import Future


def run_in_daemon(work: Callable[[], None], name: str) -> "Future[None]":
    """The outcome of `work`, which runs in a daemon thread of that name: it may hang, or take long.

    The future cannot be cancelled: who asked may leave, the work goes on. Raises RuntimeError when
    no thread is to be had.
    """
    done: Future[None] = Future()
    done.set_running_or_notify_cancel()

    def run() -> None:
        try:
            work()
        except BaseException as error:
            done.set_exception(error)
        else:
            done.set_result(None)

    threading.Thread(target=run, name=name, daemon=True).start()
    return done
