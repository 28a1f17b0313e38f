"""`rerank-serve`: serve artifacts.

Signal handlers come before the imports. The first process of a container has no default handlers,
so a signal during the imports would be lost.
"""

import os
import signal

_FAILED = 1
_STDERR = 2


def main(arguments: list[str] | None = None) -> int:
    """Serve until a signal stops it. Returns 0 after a clean stop, 1 for a failed start, 2 for
    settings that cannot be used.

    SIGTERM and SIGINT end the process until the server installs its own handlers. SIGHUP (reload)
    is ignored until then; in a terminal it still ends the process.
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
    """Exit as after a clean stop: the server does not listen yet, or it has stopped and uvicorn
    raises the signal again.

    Python's own shutdown is skipped. It would wait for threads that may hang, and free what native
    threads still use.
    """
    os._exit(0)


def _start(arguments: list[str] | None) -> int:
    # These need the standard library only, so that they can report what fails below.
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


if __name__ == "__main__":
    raise SystemExit(main())
