"""The fake machine: its libraries, and processes that run on it."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from checks.cuda.fake_cuda import build
from checks.cuda.trace import VARIABLE
from checks.here import need_tools

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "build" / "check-cuda"
_PROVIDER = "onnxruntime/capi/libonnxruntime_providers_cuda.so"
_HEADERS = "nvidia/cu13/include"
_PATIENCE_S = 600.0
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Machine:
    """Folders of the fake CUDA without cuDNN, of cuDNN, and of the packages of onnxruntime-gpu."""

    libraries: Path
    cudnn: Path
    packages: Path

    @classmethod
    def built(cls) -> "Machine":
        """Build the fake CUDA for the library in .venvs/cuda."""
        need_tools({"cc": "gcc", "nm": "binutils"})
        packages = _site("cuda")
        return cls(*build(packages / _PROVIDER, _site("cuda-headers") / _HEADERS, WORK), packages)

    def environment(self, sm: int, *more: Path, **settings: str) -> dict[str, str]:
        """The variables of a process there, as a card of compute capability `sm` (90 for 9.0);
        `more` are folders of libraries, `settings` those of fake/trace.h and of others."""
        inherited = {name: os.environ[name] for name in ("PATH", "TMPDIR") if name in os.environ}
        return {
            **inherited,
            "LD_LIBRARY_PATH": os.pathsep.join(map(str, more or (self.libraries,))),
            # First: the packages of this interpreter have ONNX Runtime for CPUs.
            "PYTHONPATH": os.pathsep.join(map(str, (self.packages, ROOT))),
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1",
            "FAKE_SM": str(sm),
            **settings,
        }

    def ask(
        self,
        module: str,
        question: object,
        kind: type[Answer],
        sm: int = 90,
        *more: Path,
        **settings: str,
    ) -> Answer:
        """Run `module` with two JSON files, the one that it reads and the one that it writes.
        Raises SystemExit when it fails."""
        WORK.mkdir(parents=True, exist_ok=True)
        asked, answered, trace = (WORK / name for name in ("question", "answer", "trace"))
        asked.write_bytes(msgspec.json.encode(question))
        for stale in (answered, trace):
            stale.unlink(missing_ok=True)
        done = subprocess.run(
            [sys.executable, "-m", module, str(asked), str(answered)],
            env=self.environment(sm, *more, **{VARIABLE: str(trace), **settings}),
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=_PATIENCE_S,
        )
        if done.returncode != 0:
            raise SystemExit(f"{module} ended with {done.returncode}: {done.stderr[-3000:]}")
        return msgspec.json.decode(answered.read_bytes(), type=kind)


def _site(environment: str) -> Path:
    (found,) = (ROOT / ".venvs" / environment / "lib").glob("python*/site-packages")
    return found
