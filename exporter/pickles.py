"""Advice for checkpoints with pickled weights, which can run code when they are opened."""

import shlex
from pathlib import Path

# The names of save_pretrained first, then those of other tools.
_PATTERNS = ("pytorch_model*.bin", "*.bin", "*.pt", "*.pth", "*.ckpt")
# Files of trainers, which are not weights.
_OTHERS = frozenset(("training_args.bin", "optimizer.pt", "scheduler.pt", "optimizer.bin"))
_SAVED_AS = "model.safetensors"
# weights_only: PyTorch then loads only tensors and runs no code.
_CODE = (
    "import pathlib, sys, torch; from safetensors.torch import save_file; "
    "d = pathlib.Path(sys.argv[1]); "
    "w = {n: t.contiguous().clone() for f in sorted(d.glob(sys.argv[2])) "
    "for n, t in torch.load(f, map_location='cpu', weights_only=True).items()}; "
    f"save_file(w, d / '{_SAVED_AS}', {{'format': 'pt'}})"
)


def pickles(directory: Path) -> list[str]:
    """The names of the pickled weight files in `directory` that match one pattern."""
    for pattern in _PATTERNS:
        names = {p.name for p in directory.glob(pattern) if p.is_file()} - _OTHERS
        if found := sorted(n for n in names if not n.startswith(("rng_state", "adapter_"))):
            return found if pattern == _PATTERNS[0] else found[:1]
    return []


def conversion(directory: Path, names: list[str]) -> str:
    """The command that writes the pickles of these `names` as safetensors beside them."""
    pattern = _PATTERNS[0] if len(names) > 1 else names[0]
    return f'python -c "{_CODE}" {shlex.quote(str(directory))} {shlex.quote(pattern)}'
