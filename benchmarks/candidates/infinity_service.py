"""infinity on its torch engine; the pair is joined by sentence-transformers inside it.

It has no templates: for families with one, the bench sends the template's head as the query.
"""

import os
import sys
from pathlib import Path

from benchmarks.protocol import Setting


def serve(setting: Setting) -> None:
    """Replace this process with infinity's own command."""
    os.environ["OMP_NUM_THREADS"] = str(setting.threads)
    program = str(Path(sys.executable).with_name("infinity_emb"))
    options = {
        "--model-id": setting.checkpoint,
        "--served-model-name": "bench",
        "--engine": "torch",
        "--device": "cpu",
        "--dtype": setting.options["dtype"],
        "--host": "127.0.0.1",
        "--port": str(setting.port),
        "--log-level": "warning",
    }
    # Its own warm-up computes 32 rows of the longest kind: minutes at 1B.
    flags = ["--no-model-warmup", "--no-bettertransformer", "--no-compile", "--trust-remote-code"]
    arguments = [word for pair in options.items() for word in pair]
    os.execv(program, [program, "v2", *arguments, *flags])
