"""`python -m clients.one CLIENT URL GRPC`: the checks of one client, in its own environment.

Its checks are the public functions of its module, in their order; each is named by its docstring.
"""

import importlib
import inspect
import sys

from clients.check import Server

PASSED = "check passed: "
FAILED = "check failed: "


def main() -> int:
    """1 if a check fails."""
    name, url, grpc = sys.argv[1:]
    module, server = importlib.import_module(f"clients.{name}"), Server(url, grpc)
    failed = 0
    for name, check in vars(module).items():
        if not inspect.isfunction(check) or check.__module__ != module.__name__ or name[0] == "_":
            continue
        named = (check.__doc__ or name).strip()
        try:
            check(server)
        except Exception as error:
            failed += 1
            print(f"{FAILED}{named}: {type(error).__name__}: {error}", flush=True)
        else:
            print(f"{PASSED}{named}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
