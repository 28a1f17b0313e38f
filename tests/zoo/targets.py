"""Which families are exported for which targets, each on a tiny checkpoint of the real class.

`tests/zoo/test_targets.py` makes every one of them; `docs/checkpoints.md` shows the table.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tests.zoo.case import Case

# What each target promises, see docs/proof.md.
CLASSES = {
    "cpu-fp32": "faithful",
    "cpu-bf16": "faithful",
    "cpu-int8": "ranking-safe",
    "cuda-fp16": "faithful",
}
RUNGS = ("tokens", "logits", "ranking")


@dataclass(frozen=True)
class Row:
    """A family by the name of its case in the zoo, and how its witness begins."""

    case: str
    witness: str


_SENTENCES, _TRANSFORMERS = "sentence-transformers", "transformers"
ROWS = (
    Row("llama-classifier-fp32", _TRANSFORMERS),
    Row("mistral-classifier-fp32", _TRANSFORMERS),
    Row("qwen2-judge-fp32", _TRANSFORMERS),
    Row("qwen3-judge-fp32", _TRANSFORMERS),
    Row("qwen3-judge-crossencoder-6-logitscore", _SENTENCES),
    Row("qwen2-classifier-fp32", _TRANSFORMERS),
    Row("qwen3-classifier-fp32", _TRANSFORMERS),
    Row("camembert-cross-encoder-fp32", _SENTENCES),
    Row("modernbert-modular-cross-encoder-ettin", _SENTENCES),
    Row("llama-embedder-saved-by-nemo-as-llamamodel", _SENTENCES),
    Row("mistral-embedder-causal-last-token", _SENTENCES),
    Row("qwen2-embedder-causal-mean", _SENTENCES),
    Row("nemotron-3-embed-embedder-fp32", _SENTENCES),
    Row("qwen3-embedder-sentence-transformers-6-last-token", _SENTENCES),
    Row("embeddinggemma-embedder-fp32", _SENTENCES),
    Row("bert-embedder-profile-e5", _SENTENCES),
    Row("llama-bidirec-embedder-profile-llama-embed-nemotron-8b", _TRANSFORMERS),
    Row("bert-embedder-dense-with-tanh-layernorm-normalize", _SENTENCES),
)


def table(cases: Sequence[Case]) -> list[str]:
    """The lines of the table."""
    named = {case.name: case for case in cases}
    heads = [f"{target} ({kind})" for target, kind in CLASSES.items()]
    lines = [
        f"| family | layout | witness | {' | '.join(heads)} |",
        "|---" * (3 + len(heads)) + "|",
    ]
    for row in ROWS:
        case = named[row.case]
        proven = " | ".join([", ".join(RUNGS)] * len(heads))
        lines.append(f"| {case.family} | {case.layout} | {row.witness} | {proven} |")
    return lines
