"""An embedder's parity ladder: the rungs of exporter.parity, over texts and their vectors.

tokens   prefix and text through the runtime's encoding against the checkpoint's own tokenizer
logits   the components of float32 PyTorch's vectors, one unpadded row a call, against the engine's
         through the runtime: each text alone, with its group, and with its group shuffled
ranking  the order of each group's passages by cosine to its query, judged as a reranker's scores
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from exporter.answers import Scores, Text, VectorReference, Vectors
from exporter.errors import ParityFailed
from exporter.parity import (
    RANDOM_SHARE,
    batch_delta,
    check_ranking,
    compare_tokens,
    dependence,
    raise_failures,
)
from exporter.report import Parity, Precision, Rung
from runtime.embedder import Embedder
from runtime.errors import NonFiniteScore
from runtime.requests import EmbedRequest
from runtime.text import TextEncoder

# Largest |Δ| of one component of a vector of length 1; it grows with the length beyond. Measured
# in fp32: 3e-7 on trained weights. Half precision of trained weights goes by tau alone.
COMPONENT_TOLERANCE = 1e-5
# Kernels on other machines round differently.
_GOLDEN_TOLERANCE: dict[Precision, float] = {
    "fp32": 1e-4,
    "fp16": 5e-3,
    "bf16": 2e-2,
    "int8": 2e-2,
    "int8-weights": 2e-2,
    "fp8": 2e-2,
}
# Cosines that differ by less than twice this count as tied.
COSINE_TOLERANCE: dict[Precision, float] = {
    "fp32": 1e-4,
    "fp16": 2e-3,
    "bf16": 2e-3,
    "int8": 1e-3,
    "int8-weights": 1e-3,
    "fp8": 1e-3,
}


@dataclass(frozen=True)
class EngineVectors:
    """Vectors float64 [texts, dimensions] per group: each text alone, with its group, shuffled."""

    alone: list[Vectors]
    together: list[Vectors]
    shuffled: list[Vectors]


def check_text_tokens(report: Parity, reference: VectorReference, encoder: TextEncoder) -> None:
    """The first rung. Records it in `report` and raises ParityFailed when an id differs."""
    compared = []
    for texts, wanted_rows in zip(reference.texts, reference.tokens, strict=True):
        for text, wanted in zip(texts, wanted_rows, strict=True):
            (found,) = encoder.encode(
                EmbedRequest([text.text], text.input_type, truncate="END")
            ).rows
            compared.append((text.label, found, wanted))
    compare_tokens(report, compared)


def check_vectors(report: Parity, reference: VectorReference, embedder: Embedder) -> EngineVectors:
    """The second and third rung. Records both in `report` before raising ParityFailed."""
    tolerance = _tolerance(report, reference)
    try:
        found = _engine_vectors(reference, embedder)
    except NonFiniteScore as error:
        texts = sum(map(len, reference.texts))
        report.rungs["logits"] = Rung(pairs=texts, tolerance=tolerance, passed=False)
        raise ParityFailed("logits", str(error)) from error
    wanted_cosines = map(cosines, reference.vectors)
    found_cosines = map(cosines, found.together)
    orders = list(zip(reference.groups, wanted_cosines, found_cosines, strict=True))
    raise_failures(
        logits=_check_components(report, reference, found, tolerance),
        ranking=check_ranking(report, orders, COSINE_TOLERANCE[report.precision]),
    )
    return found


def vector_golden_tolerance(report: Parity, reference: VectorReference) -> float:
    """How far a component may be from its recorded value when the artifact is opened elsewhere."""
    scale = max(1.0, float(np.linalg.norm(np.concatenate(reference.vectors), axis=1).max()))
    widest = _GOLDEN_TOLERANCE[report.precision] * scale
    if report.precision == "fp32":
        return widest
    return max(widest, 2 * (report.rungs["logits"].max_abs_delta or 0.0))


def cosines(vectors: Vectors) -> Scores:
    """The cosine of every later row of `vectors` [1 + n, d] to the first one, float64 [n]."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    units = vectors / np.where(lengths > 0, lengths, 1.0)
    return cast(Scores, units[1:] @ units[0])


def _engine_vectors(reference: VectorReference, embedder: Embedder) -> EngineVectors:
    vectors = EngineVectors([], [], [])
    shuffle = np.random.default_rng(0)
    for texts in reference.texts:
        order = shuffle.permutation(len(texts))
        found = _embed(embedder, [texts[i] for i in order])
        shuffled = np.empty_like(found)
        shuffled[order] = found
        vectors.shuffled.append(shuffled)
        vectors.together.append(_embed(embedder, texts))
        vectors.alone.append(np.concatenate([_embed(embedder, [text]) for text in texts]))
    return vectors


def _embed(embedder: Embedder, texts: Sequence[Text]) -> Vectors:
    """The vectors of `texts` in their order; one request for each input type among them."""
    rows: dict[int, Vectors] = {}
    for input_type in dict.fromkeys(text.input_type for text in texts):
        places = [i for i, text in enumerate(texts) if text.input_type == input_type]
        request = EmbedRequest([texts[i].text for i in places], input_type, truncate="END")
        found = embedder.embed(request)
        rows |= zip(places, found.vectors.astype(np.float64), strict=True)
    return np.stack([rows[i] for i in range(len(texts))])


def _tolerance(report: Parity, reference: VectorReference) -> float:
    if report.rule == "random-weights":
        return RANDOM_SHARE[report.precision] * _spread(np.concatenate(reference.vectors))
    return COMPONENT_TOLERANCE


def _spread(vectors: Vectors) -> float:
    """The deviation of components between texts, without what all vectors share."""
    return float(np.sqrt(vectors.var(axis=0).mean()))


def _check_components(
    report: Parity, reference: VectorReference, found: EngineVectors, tolerance: float
) -> str | None:
    wanted = np.concatenate(reference.vectors)
    ways = {
        "alone": np.concatenate(found.alone),
        "with its group": np.concatenate(found.together),
        "with its group shuffled": np.concatenate(found.shuffled),
    }
    deltas = np.abs(np.stack(list(ways.values())) - wanted)
    lengths = np.linalg.norm(wanted, axis=1, keepdims=True)
    excess = deltas / np.maximum(1.0, lengths)
    way, text, component = map(int, np.unravel_index(int(excess.argmax()), excess.shape))
    gated = report.precision == "fp32" or report.rule == "random-weights"
    passed = not gated or bool(excess[way, text, component] <= tolerance)
    report.rungs["logits"] = Rung(
        pairs=len(wanted),
        max_abs_delta=float(deltas.max()),
        rms_delta=float(np.sqrt((deltas**2).mean())),
        reference_std=_spread(wanted),
        lowest_cosine=min(_own_cosines(wanted, rows) for rows in ways.values()),
        tolerance=tolerance if gated else None,
        batch_max_abs_delta=batch_delta(list(ways.values())),
        passed=passed,
    )
    if passed:
        return dependence(report)
    name, rows = list(ways.items())[way]
    label = [one.label for one in _flat(reference.texts)][text]
    return (
        f"text {label}: the checkpoint gives {wanted[text, component]:.6f} as component "
        f"{component}, {report.engine} embedding it {name} gives {rows[text, component]:.6f}; "
        f"they differ by {deltas[way, text, component]:.2g}, tolerance {tolerance:.2g} "
        f"({report.rule}, {report.precision}). If the precision is the cause, export with a target "
        "target"
    )


def _own_cosines(wanted: Vectors, found: Vectors) -> float:
    pairs = np.stack([wanted, found], axis=1)
    return float(min(cosines(pair)[0] for pair in pairs))


def _flat(texts: list[list[Text]]) -> Iterator[Text]:
    return (text for row in texts for text in row)
