"""`make check-optimum`: optimum's graph of a BERT cross-encoder, against ours.

A seeded checkpoint of MiniLM-L6's shape is exported twice: by optimum-onnx, in a separate
environment with its version of transformers, and by rerank-export. Both graphs must give PyTorch's
logits on the parity texts; speed is shown and not judged.
"""

import shutil
import statistics
import sys
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import onnx
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, processors, trainers

from checks import figures
from checks.elsewhere import answer
from checks.exporting import exported
from exporter.parity_texts import Group, parity_groups
from exporter.pipeline import ExportArgs
from runtime.batch import assemble
from runtime.engines import Engine, open_engine
from runtime.manifest import MODEL_FILE, TOKENIZER_FILE, Manifest
from runtime.requests import RankRequest
from runtime.telemetry import disable_telemetry
from runtime.text import Encoding, PairEncoder, load_tokenizer
from tests.tiny_checkpoints import write_checkpoint, write_tokenizer

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


def compare(
    artifact: Path, manifest: Manifest, theirs: Path, groups: tuple[Group, ...], wanted: Reference
) -> Figures:
    """Score every group as one padded call with both graphs; tokens are the runtime's."""
    rows = _encode(artifact, groups)
    pad, side = manifest.special_tokens.pad, manifest.padding_side
    calls = [assemble(group, manifest.inputs, pad, side) for group in rows]
    ours, others = (_scores(graph, calls) for graph in (artifact, theirs))
    torch_logits = np.asarray(wanted.logits)
    found = [(row.token_ids.tolist(), _types(row)) for group in rows for row in group]
    tokens = list(zip(wanted.token_ids, wanted.type_ids, strict=True))
    return Figures(
        pairs=len(found),
        other_tokens=sum(pair != want for pair, want in zip(found, tokens, strict=True)),
        between=float(np.abs(ours - others).max()),
        ours=float(np.abs(ours - torch_logits).max()),
        theirs=float(np.abs(others - torch_logits).max()),
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
    write_tokenizer(checkpoint, _tokenizer(), "BertTokenizer", **_SPECIAL)
    write_checkpoint(checkpoint, SHAPE, seed=0)
    question = {
        "checkpoint": str(checkpoint),
        "out": str(theirs),
        "max_tokens": MAX_TOKENS,
        "pairs": [[group.query, passage] for group in groups for passage in group.passages],
    }
    reference = answer(PYTHON, "optimum_reference.py", question, Reference)
    manifest = exported("check-optimum", str(checkpoint), artifact, ExportArgs())
    found = compare(artifact, manifest, theirs, groups, reference)
    rows = {
        "optimum's side": ", ".join(f"{name} {v}" for name, v in reference.versions.items()),
        "graph of optimum": describe(theirs),
        "graph of ours": describe(artifact),
        "pairs": f"{found.pairs}, {found.other_tokens} of them with other tokens",
        "max |Δ logit|": f"{found.between:.2g} between the graphs (tolerance {TOLERANCE:.0e})",
        "from PyTorch": f"ours {found.ours:.2g}, optimum's {found.theirs:.2g}",
    }
    with _opened(artifact) as our_engine, _opened(theirs) as their_engine:
        for batch, tokens in CALLS:
            ours_s, theirs_s = time_call(our_engine, their_engine, batch, tokens)
            rows[f"{batch} × {tokens} tokens"] = (
                f"ours {ours_s * 1e3:.1f} ms, optimum {theirs_s * 1e3:.1f} ms: "
                f"{theirs_s / ours_s:.2f} × as fast"
            )
    print(figures.lines(rows))
    return figures.verdict(passed=found.passed)


def _encode(artifact: Path, groups: tuple[Group, ...]) -> list[list[Encoding]]:
    encoder = PairEncoder(load_tokenizer(artifact / TOKENIZER_FILE), None, MAX_TOKENS)
    return [
        encoder.encode(RankRequest(group.query, group.passages, truncate="END")).rows
        for group in groups
    ]


def _types(row: Encoding) -> list[int]:
    return [] if row.type_ids is None else row.type_ids.tolist()


def _scores(graph: Path, calls: list[dict[str, Any]]) -> Scores:
    with _opened(graph) as engine:
        outputs = [engine.run(call)["logits"][:, 0] for call in calls]
    return np.concatenate(outputs).astype(np.float64)


def _opened(directory: Path) -> closing[Engine]:
    """The engine that serves, with the options that it serves with, on either graph."""
    return closing(open_engine("onnxruntime-cpu", directory))


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
