"""`rerank-serve`: serve artifacts.

Signals first, imports after: the first process of a container has no default for them, and one that
came while the rest is imported would be lost.
"""

import os
import signal

_FAILED = 1
_STDERR = 2


def main(arguments: list[str] | None = None) -> int:
    """Serve until told to stop; 0 after a clean stop, 1 for a start that fails, 2 for settings
    that cannot be used.

    SIGTERM and SIGINT end the process from here on, unless the server listens to them itself.
    SIGHUP, which asks to reload, asks for nothing before that; in a terminal it goes on ending the
    process.
    """
    before = {number: signal.signal(number, _end) for number in (signal.SIGTERM, signal.SIGINT)}
    if not os.isatty(_STDERR):
        before[signal.SIGHUP] = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        return _start(arguments)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(*_: object) -> None:
    """End as after a clean stop: before the server listens there is nothing to answer, and when it
    has stopped, uvicorn raises the signal again.

    Without Python's own end, which waits for threads that may hang, and takes from native ones
    what they use.
    """
    os._exit(0)


def _start(arguments: list[str] | None) -> int:
    # These import the standard library only, so that they can speak of what fails below.
    from server.libraries import prepare_libraries
    from server.logs import report_startup_error, wants_json_logs
    from server.process_limits import check_process_limits, find_exceeded_limit

    as_json = wants_json_logs(os.environ)
    prepare_libraries()
    try:
        check_process_limits()
        from server.command import serve

        return serve(arguments, as_json=as_json)
    except Exception as error:
        limit = find_exceeded_limit(error)
        if limit is None and not as_json:
            raise
        reason = limit or f"the start failed unexpectedly: {type(error).__name__}"
        report_startup_error(reason, as_json=as_json, error=None if limit else error)
        return _FAILED
