"""`make check-optimum`: optimum's graph of a BERT cross-encoder, against ours.

A seeded checkpoint of MiniLM-L6's shape is exported twice: by optimum-onnx, in a separate
environment with its version of transformers, and by rerank-export. Both graphs must give PyTorch's
logits on the parity texts; speed is shown and not judged.
"""

import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import onnx
import tokenizers
import torch
from safetensors.torch import save_file
from tokenizers import models, normalizers, pre_tokenizers, processors, trainers

from exporter.architectures import CROSS_ENCODERS
from exporter.architectures.config import Config
from exporter.checkpoint import CONFIG_FILE
from exporter.errors import ExportError
from exporter.parity_texts import Group, parity_groups
from exporter.pipeline import ExportArgs, export
from exporter.weights import WEIGHTS_FILE
from runtime.batch import assemble
from runtime.engines import Engine, open_engine
from runtime.errors import ServingError
from runtime.manifest import MODEL_FILE, TOKENIZER_FILE, Manifest
from runtime.requests import RankRequest
from runtime.telemetry import SWITCHES, disable_telemetry
from runtime.text import Encoding, PairEncoder, load_tokenizer

WORK = Path("build/check-optimum")
PYTHON = Path(".venvs/optimum/bin/python")
TOLERANCE = 1e-4
MAX_TOKENS = 512
# Rows and tokens a row of the calls that are timed.
CALLS = ((1, 64), (8, 128), (32, 128))
ROUNDS = 15

# cross-encoder/ms-marco-MiniLM-L6-v2; large enough for meaningful speed.
SHAPE: dict[str, Any] = {
    "architectures": ["BertForSequenceClassification"],
    "model_type": "bert",
    "hidden_act": "gelu",
    "hidden_size": 384,
    "intermediate_size": 1536,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
    "vocab_size": 30522,
    "max_position_embeddings": MAX_TOKENS,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "id2label": {"0": "LABEL_0"},
    "random_weights": True,
}
_SPECIAL = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}

Scores = npt.NDArray[np.float64]


class Reference(msgspec.Struct):
    """Results of optimum's environment for the pairs: tokens, and PyTorch's logits."""

    versions: dict[str, str]
    token_ids: list[list[int]]
    type_ids: list[list[int]]
    logits: list[float]


@dataclass(frozen=True)
class Figures:
    """Largest |Δ logit| between the two graphs and from PyTorch; pairs with other tokens."""

    pairs: int
    other_tokens: int
    between: float
    ours: float
    theirs: float

    @property
    def passed(self) -> bool:
        """Whether both graphs and PyTorch agree."""
        return not self.other_tokens and max(self.between, self.ours, self.theirs) <= TOLERANCE


def write_checkpoint(directory: Path, shape: dict[str, Any]) -> None:
    """A seeded cross-encoder of `shape` whose scores spread, with a tokenizer of few words."""
    directory.mkdir(parents=True)
    (directory / CONFIG_FILE).write_bytes(msgspec.json.encode(shape))
    _tokenizer().save(str(directory / "tokenizer.json"))
    settings = {"tokenizer_class": "BertTokenizer", "model_max_length": MAX_TOKENS} | _SPECIAL
    (directory / "tokenizer_config.json").write_bytes(msgspec.json.encode(settings))
    with torch.device("meta"):
        model = CROSS_ENCODERS[shape["architectures"][0]](Config(shape))
    generator = torch.Generator().manual_seed(0)
    weights = {n: _random(n, p.shape, generator) for n, p in model.named_parameters()}
    save_file(weights, directory / WEIGHTS_FILE)


def ask_optimum(python: Path, checkpoint: Path, out: Path, groups: tuple[Group, ...]) -> Reference:
    """Run checks/optimum_reference.py with `python`; its model.onnx lies in `out` afterwards.

    Raises SystemExit.
    """
    question = {
        "checkpoint": str(checkpoint),
        "out": str(out),
        "max_tokens": MAX_TOKENS,
        "pairs": [[group.query, passage] for group in groups for passage in group.passages],
    }
    out.mkdir(parents=True)
    asked, answered = out / "pairs.json", out / "reference.json"
    asked.write_bytes(msgspec.json.encode(question))
    # -I, or else this folder's optimum.py would shadow the package.
    script = str(Path(__file__).with_name("optimum_reference.py"))
    command = [str(python), "-I", script, str(asked), str(answered)]
    done = subprocess.run(command, env={**os.environ, **SWITCHES, "HF_HUB_OFFLINE": "1"})
    if done.returncode != 0:
        raise SystemExit(f"optimum failed ({done.returncode}); see above")
    return msgspec.json.decode(answered.read_bytes(), type=Reference)


def compare(
    artifact: Path, manifest: Manifest, theirs: Path, groups: tuple[Group, ...], wanted: Reference
) -> Figures:
    """Score every group as one padded call with both graphs; tokens are the runtime's."""
    rows = _encode(artifact, groups)
    pad, side = manifest.special_tokens.pad, manifest.padding_side
    calls = [assemble(group, manifest.inputs, pad, side) for group in rows]
    with _opened(artifact) as our_engine, _opened(theirs) as their_engine:
        ours = _scores(our_engine, calls)
        others = _scores(their_engine, calls)
    torch_logits = np.asarray(wanted.logits)
    found = [(row.token_ids.tolist(), _types(row)) for group in rows for row in group]
    same = [
        pair == want
        for pair, want in zip(
            found, zip(wanted.token_ids, wanted.type_ids, strict=True), strict=True
        )
    ]
    return Figures(
        pairs=len(same),
        other_tokens=same.count(False),
        between=_largest(ours - others),
        ours=_largest(ours - torch_logits),
        theirs=_largest(others - torch_logits),
    )


def time_call(ours: Engine, theirs: Engine, rows: int, tokens: int) -> tuple[float, float]:
    """Median seconds of one call for each engine, taking turns."""
    ids = np.random.default_rng(0).integers(5, 100, (rows, tokens))
    types = np.zeros_like(ids)
    inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": types}
    spent: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS + 1):
        for engine, seconds in zip((ours, theirs), spent, strict=True):
            began = time.perf_counter()
            engine.run(inputs)
            seconds.append(time.perf_counter() - began)
    # The first round warms up.
    return statistics.median(spent[0][1:]), statistics.median(spent[1][1:])


def describe(directory: Path) -> str:
    """Opset, number of nodes and size of the graph in `directory`."""
    graph = onnx.load(directory / MODEL_FILE)
    opset = next(o.version for o in graph.opset_import if o.domain in ("", "ai.onnx"))
    megabytes = (directory / MODEL_FILE).stat().st_size / 1e6
    return f"opset {opset}, {len(graph.graph.node)} nodes, {megabytes:.1f} MB"


def main() -> int:
    """Export twice, compare, time; 1 when tokens or logits differ."""
    disable_telemetry()
    shutil.rmtree(WORK, ignore_errors=True)
    checkpoint, artifact, theirs = WORK / "checkpoint", WORK / "artifact", WORK / "optimum"
    groups = parity_groups(MAX_TOKENS)
    write_checkpoint(checkpoint, SHAPE)
    reference = ask_optimum(PYTHON, checkpoint, theirs, groups)
    try:
        manifest = export(str(checkpoint), artifact, ExportArgs())
    except (ExportError, ServingError) as error:
        print(f"check-optimum: {error}", file=sys.stderr)
        return 1
    figures = compare(artifact, manifest, theirs, groups, reference)
    _print(figures, reference, artifact, theirs)
    with _opened(artifact) as our_engine, _opened(theirs) as their_engine:
        for rows, tokens in CALLS:
            ours_s, theirs_s = time_call(our_engine, their_engine, rows, tokens)
            print(
                f"{f'{rows} × {tokens} tokens':<20} ours {ours_s * 1e3:.1f} ms, optimum "
                f"{theirs_s * 1e3:.1f} ms: {theirs_s / ours_s:.2f} × as fast"
            )
    print("passed" if figures.passed else "FAILED")
    return 0 if figures.passed else 1


def _print(figures: Figures, reference: Reference, artifact: Path, theirs: Path) -> None:
    versions = ", ".join(f"{name} {version}" for name, version in reference.versions.items())
    rows = {
        "optimum's side": versions,
        "graph of optimum": describe(theirs),
        "graph of ours": describe(artifact),
        "pairs": f"{figures.pairs}, {figures.other_tokens} of them with other tokens",
        "max |Δ logit|": f"{figures.between:.2g} between the graphs (tolerance {TOLERANCE:.0e})",
        "from PyTorch": f"ours {figures.ours:.2g}, optimum's {figures.theirs:.2g}",
    }
    for name, value in rows.items():
        print(f"{name:<20} {value}")


def _encode(artifact: Path, groups: tuple[Group, ...]) -> list[list[Encoding]]:
    encoder = PairEncoder(load_tokenizer(artifact / TOKENIZER_FILE), None, MAX_TOKENS)
    return [
        encoder.encode(RankRequest(group.query, group.passages, truncate="END")).rows
        for group in groups
    ]


def _types(row: Encoding) -> list[int]:
    return [] if row.type_ids is None else row.type_ids.tolist()


def _scores(engine: Engine, calls: list[dict[str, Any]]) -> Scores:
    outputs = [engine.run(call)["logits"][:, 0] for call in calls]
    return np.concatenate(outputs).astype(np.float64)


def _largest(delta: Scores) -> float:
    return float(np.abs(delta).max())


@contextmanager
def _opened(directory: Path) -> Iterator[Engine]:
    """The engine that serves, with the options that it serves with, on either graph."""
    with closing(open_engine("onnxruntime-cpu", directory)) as engine:
        yield engine


def _random(name: str, shape: torch.Size, generator: torch.Generator) -> torch.Tensor:
    if name.endswith("LayerNorm.weight"):
        return torch.ones(shape)
    fan_in = 1 if "embeddings" in name else shape[-1]
    return torch.randn(shape, generator=generator) / fan_in**0.5


def _tokenizer() -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(models.WordPiece(unk_token=_SPECIAL["unk_token"]))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=2000, special_tokens=list(_SPECIAL.values()), show_progress=False
    )
    texts = (text for group in parity_groups(1) for text in (group.query, *group.passages))
    tokenizer.train_from_iterator(texts, trainer)
    ids = tokenizer.get_vocab()
    separator, start = ((_SPECIAL[key], ids[_SPECIAL[key]]) for key in ("sep_token", "cls_token"))
    tokenizer.post_processor = processors.BertProcessing(separator, start)
    return tokenizer


if __name__ == "__main__":
    sys.exit(main())
