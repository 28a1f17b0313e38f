"""Postprocessing of engine outputs: order, relevance, shorter and quantised vectors, timing."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
InputType = Literal["query", "passage"]
EmbeddingType = Literal["float", "int8", "uint8", "binary", "ubinary"]
# The function from a logit to a relevance score.
Activation = Literal["sigmoid", "identity"]


@dataclass(frozen=True)
class EngineCall:
    """One engine call of `rows` rows, perhaps of several requests; `began` and `ended` in seconds
    of time.monotonic(). `real_tokens` are those of the rows, `computed_tokens` with padding."""

    began: float
    ended: float
    rows: int
    real_tokens: int
    computed_tokens: int


@dataclass(frozen=True)
class Timing:
    """Where one request's time went, in milliseconds.

    `queue_ms` is the time from submission to the start of the request's first engine call,
    `engine_ms` from there to the end of its last. `began` is the request's start in seconds of
    time.monotonic(), `calls` the engine calls that held its rows. `image_ms` is the time that its
    images took before that, from their bytes to embeddings.
    """

    tokenize_ms: float
    queue_ms: float
    engine_ms: float
    total_ms: float
    image_ms: float = 0.0
    began: float = 0.0
    calls: tuple[EngineCall, ...] = ()


@dataclass(frozen=True)
class Ranking:
    """The answer to one ranking request over n passages.

    `logits` float32 [n] raw model outputs in the order of the passages; `order` int64 [n]
    passage indexes by descending logit, ties in the order given; `token_counts` int64 [n] tokens
    of each pair as scored, special tokens included, padding not; `truncated` passages cut;
    `activation` is the one that the checkpoint was saved with.
    """

    logits: Floats
    order: Ints
    token_counts: Ints
    truncated: int
    timing: Timing
    activation: Activation = "sigmoid"

    def relevance(self) -> npt.NDArray[np.float64]:
        """The relevance score of each passage, float64 [n]: the activation of its logit."""
        return relevance(self.logits, self.activation)


@dataclass(frozen=True)
class Embeddings:
    """The answer to one embedding request over n texts.

    `vectors` float32 [n, d] in the order of the texts; `token_counts` int64 [n] tokens of each
    text as embedded, prefix and special tokens included; `truncated` texts cut.
    """

    vectors: Floats
    token_counts: Ints
    truncated: int
    timing: Timing


def descending(logits: Floats) -> Ints:
    """Indexes that sort `logits` [n] in descending order; equal ones keep their order."""
    return np.argsort(-logits, kind="stable").astype(np.int64)


def relevance(logits: Floats, activation: Activation = "sigmoid") -> npt.NDArray[np.float64]:
    """`activation` of `logits` [n], float64; the sigmoid without overflow at either end."""
    wide = logits.astype(np.float64)
    if activation == "identity":
        return wide
    small = np.exp(-np.abs(wide))
    return np.where(wide >= 0, 1.0, small) / (1.0 + small)


def unit(vectors: Floats) -> Floats:
    """`vectors` [n, d] divided by their length; zeros stay zeros, infinity becomes NaN."""
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    with np.errstate(invalid="ignore"):
        return (vectors / np.where(lengths > 0, lengths, 1.0)).astype(np.float32)


def shorten(vectors: Floats, dimensions: int) -> Floats:
    """The first `dimensions` components of `vectors` [n, d], divided by their length (Matryoshka).

    With `dimensions` ≥ d, the vectors are returned unchanged.
    """
    if dimensions >= vectors.shape[1]:
        return vectors
    return unit(vectors[:, :dimensions])


def quantized(vectors: Floats, embedding_type: EmbeddingType) -> npt.NDArray[np.generic]:
    """`vectors` [n, d] in fewer bits.

    int8 scales each vector so that its largest component is ±127, which keeps cosines; uint8 is
    that plus 128. ubinary packs the signs, 8 components a byte, the first in the highest bit and
    zeros after the last; binary is that minus 128, as int8. float gives `vectors`.
    """
    if embedding_type == "float":
        return vectors
    if embedding_type in ("ubinary", "binary"):
        packed = np.packbits(vectors > 0, axis=1)
        return (
            packed if embedding_type == "ubinary" else (packed.astype(np.int16) - 128).astype("i1")
        )
    largest = np.abs(vectors).max(axis=1, keepdims=True)
    whole = np.rint(vectors / np.where(largest > 0, largest, 1.0) * 127)
    return whole.astype("i1") if embedding_type == "int8" else (whole + 128).astype("u1")
