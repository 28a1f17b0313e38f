"""Run one candidate, in its environment: python -m benchmarks.candidates MODULE SETTING.

A module has `load`, whose scores are answered by the bench's protocol, or `serve`, which answers
HTTP itself.
"""

import json
import sys
from importlib import import_module

from benchmarks.protocol import Setting, answer
from runtime.telemetry import disable_telemetry

if __name__ == "__main__":
    name, argument = sys.argv[1:]
    disable_telemetry()
    setting = Setting(**json.loads(argument))
    module = import_module(f"benchmarks.candidates.{name}")
    if hasattr(module, "serve"):
        module.serve(setting)
    else:
        answer(module.load(setting), setting.port)
