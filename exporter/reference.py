"""What the checkpoint itself answers, one row at a time: its tokens, and its float32 scores or
vectors.

Float32 on the CPU wherever the export runs: a reference in bfloat16, which PyTorch users take on a
GPU, would be further from the truth than the graphs that are measured by it.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from exporter.answers import Reference, Scores, Text, Tokens, VectorReference
from exporter.errors import CheckpointRefused
from exporter.library_texts import candidate_groups
from exporter.parity import COARSE
from exporter.parity_texts import Group, added_tokens_group, parity_groups
from exporter.tokens import CheckpointTokenizer
from runtime.manifest import Manifest
from runtime.postprocess import InputType


class Answering(Protocol):
    """What is asked: a checkpoint's Architecture, or an ArtifactModel in its place."""

    @property
    def inputs(self) -> Sequence[str]:
        """Names of the tensors that it is called with, in their order."""

    def __call__(self, *tensors: torch.Tensor) -> torch.Tensor:
        """Logits [rows, 1] or vectors [rows, d] for int64 [rows, tokens] an input."""


def ask(
    manifest: Manifest, model: Answering, tokenizer: CheckpointTokenizer, vocabulary: int
) -> Reference | VectorReference:
    """Ask `model` for everything that a proof of this draft needs."""
    # The passages that only coarse precisions have trouble with.
    more = candidate_groups(manifest.max_tokens) if manifest.precision in COARSE else ()
    if manifest.kind == "rank":
        return reference_scores(model, tokenizer, vocabulary, manifest.max_tokens, more)
    return reference_vectors(
        model, tokenizer, manifest.prefixes, vocabulary, manifest.max_tokens, more
    )


def reference_scores(
    model: Answering,
    tokenizer: CheckpointTokenizer,
    vocabulary: int,
    max_tokens: int,
    more: Sequence[Group] = (),
) -> Reference:
    """Tokenise and score every parity pair without the runtime: unpadded, one row a call.

    `more` groups follow those that every artifact is proven on.

    Raises CheckpointRefused when the checkpoint itself gives NaN or infinity, or its tokenizer
    an id past the `vocabulary` of its embeddings.
    """
    groups = (*_groups(tokenizer, max_tokens), *more)
    tokens = [[tokenizer.encode(g.query, p) for p in g.passages] for g in groups]
    _refuse_unknown_ids(tokens, vocabulary)
    logits = [np.asarray([_answer(model, row).item() for row in rows]) for rows in tokens]
    for group, found in zip(groups, logits, strict=True):
        _refuse_broken(found, [group.label(i) for i in range(len(found))])
    return Reference(groups, tokens, logits)


def reference_vectors(
    model: Answering,
    tokenizer: CheckpointTokenizer,
    prefixes: Mapping[str, str],
    vocabulary: int,
    max_tokens: int,
    more: Sequence[Group] = (),
) -> VectorReference:
    """`reference_scores` for an embedder: its vectors of every query and passage.

    `prefixes` maps input types to what is put before a text; empty for symmetric models.
    """
    groups = (*_groups(tokenizer, max_tokens), *more)
    texts = [_texts(group, asymmetric=bool(prefixes)) for group in groups]
    tokens = [
        [tokenizer.encode_text(prefixes.get(t.input_type or "", "") + t.text) for t in row]
        for row in texts
    ]
    _refuse_unknown_ids(tokens, vocabulary)
    vectors = [np.stack([_answer(model, row)[0] for row in rows]) for rows in tokens]
    for row, found in zip(texts, vectors, strict=True):
        _refuse_broken(found.sum(axis=1), [text.label for text in row])
    return VectorReference(groups, texts, tokens, vectors)


def _groups(tokenizer: CheckpointTokenizer, max_tokens: int) -> tuple[Group, ...]:
    return (*parity_groups(max_tokens), *added_tokens_group(tokenizer.added_tokens()))


def _texts(group: Group, *, asymmetric: bool) -> list[Text]:
    query = Text(f"{group.name}[query]", group.query, "query" if asymmetric else None)
    kind: InputType | None = "passage" if asymmetric else None
    return [query, *(Text(group.label(i), p, kind) for i, p in enumerate(group.passages))]


def _refuse_unknown_ids(tokens: Iterable[Iterable[Tokens]], vocabulary: int) -> None:
    largest = max(max(row.token_ids) for rows in tokens for row in rows)
    if largest >= vocabulary:
        raise CheckpointRefused(
            f"the tokenizer gives the id {largest}, but config.json has vocab_size = {vocabulary}; "
            "tokenizer and weights are not of one checkpoint"
        )


def _refuse_broken(found: Scores, labels: list[str]) -> None:
    for index in np.flatnonzero(~np.isfinite(found)):
        raise CheckpointRefused(
            f"the checkpoint itself gives {found[index]} for {labels[int(index)]}; its weights "
            "are broken, train or download it again"
        )


@torch.inference_mode()
def _answer(model: Answering, tokens: Tokens) -> npt.NDArray[np.float64]:
    """The model's output for one row, float64 [1, components]."""
    ids = torch.tensor([tokens.token_ids])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if tokens.type_ids is not None:
        inputs["token_type_ids"] = torch.tensor([tokens.type_ids])
    found = model(*(inputs[name] for name in model.inputs))
    return np.asarray(found.numpy(), dtype=np.float64)
