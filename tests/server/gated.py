"""`rerank-serve`, whose mock computes only what the test lets through.

python -m tests.server.gated BEGUN THROUGH TOKENS [options]: the arguments of `gated`, then the
command's own.
"""

import os
import select
import sys
from collections.abc import Callable
from typing import Any

from runtime.engines.mock import MockEngine
from server.cli import main
from tests.waiting import PATIENCE_S


def gated(begun: int, through: int, tokens: int) -> Callable[[MockEngine, Any], Any]:
    """MockEngine.run, whose calls with a row of at least `tokens` tokens write a byte to the
    descriptor `begun`, and wait for a byte, or the end, of `through`.

    So a test knows that a call runs, and that it goes on running, on any machine.
    """
    compute = MockEngine.run

    def run(self: MockEngine, inputs: Any) -> Any:
        if inputs["input_ids"].shape[1] >= tokens:
            os.write(begun, b"x")
            assert select.select([through], [], [], PATIENCE_S)[0]
            os.read(through, 1)
        return compute(self, inputs)

    return run


if __name__ == "__main__":
    MockEngine.run = gated(*map(int, sys.argv[1:4]))  # type: ignore[method-assign]
    del sys.argv[1:4]
    sys.exit(main())
