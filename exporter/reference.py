"""Collect the answers of a witness to the parity texts, one row at a time.

Always in float32 on the CPU: a reference in bfloat16, as PyTorch users run on a GPU, would be less
exact than the graphs that are compared with it.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from exporter.answers import Reference, Scores, Text, Tokens, VectorReference
from exporter.errors import CheckpointRefused
from exporter.library_texts import candidate_groups
from exporter.parity import LOW_PRECISIONS
from exporter.parity_texts import Group, added_tokens_group, parity_groups
from exporter.tokens import CheckpointTokenizer
from exporter.witness.base import RankWitness, Values, VectorWitness, Witness
from runtime.manifest import Manifest
from runtime.postprocess import InputType


def collect_answers(
    manifest: Manifest, witness: Witness, tokenizer: CheckpointTokenizer, vocabulary: int
) -> Reference | VectorReference:
    """Ask `witness` for every answer that the proof of this draft needs.

    It gets raw texts, with two exceptions: texts that are too long (loaders cut the longer text
    first or elsewhere, NIMs and this project cut only the passage), and texts with a pad token that
    has no embedding. For these it gets the ids that `tokenizer` keeps. Raises
    CheckpointRefused when the checkpoint itself gives NaN or infinity, or its tokenizer an id past
    the `vocabulary` of its embeddings.
    """
    # Passages with similar scores, which are difficult for low precisions.
    more = candidate_groups(manifest.max_tokens) if manifest.precision in LOW_PRECISIONS else ()
    base = parity_groups(manifest.max_tokens)
    groups = (*base, *added_tokens_group(tokenizer.added_tokens()), *more)
    if isinstance(witness, RankWitness):
        return _scores(witness, tokenizer, vocabulary, groups)
    assert isinstance(witness, VectorWitness)
    return _vectors(witness, tokenizer, manifest.prefixes, vocabulary, groups)


def _scores(
    witness: RankWitness, tokenizer: CheckpointTokenizer, vocabulary: int, groups: Sequence[Group]
) -> Reference:
    tokens: list[list[Tokens]] = []
    logits: list[Scores] = []
    for group in groups:
        rows, values = [], []
        for index, passage in enumerate(group.passages):
            kept, cut = tokenizer.encode(group.query, passage)
            _refuse_unknown_ids(kept, vocabulary)
            if cut or tokenizer.reads_alone(group.query, passage):
                row, value = kept, witness.values(kept)
            else:
                row, value = witness.score(group.query, passage)
            _refuse_broken(value, group.label(index))
            rows.append(row)
            values.append(value.item())
        tokens.append(rows)
        logits.append(np.asarray(values))
    return Reference(witness.name, tuple(groups), tokens, logits)


def _vectors(
    witness: VectorWitness,
    tokenizer: CheckpointTokenizer,
    prefixes: Mapping[str, str],
    vocabulary: int,
    groups: Sequence[Group],
) -> VectorReference:
    texts = [_texts(group, asymmetric=bool(prefixes)) for group in groups]
    tokens, vectors = [], []
    for some in texts:
        rows, values = [], []
        for text in some:
            kept, cut = tokenizer.encode_text(prefixes.get(text.input_type or "", "") + text.text)
            _refuse_unknown_ids(kept, vocabulary)
            if cut or tokenizer.reads_alone(text.text):
                row, value = kept, witness.values(kept)
            else:
                row, value = witness.embed(text.text, text.input_type)
            _refuse_broken(value, text.label)
            rows.append(row)
            values.append(value)
        tokens.append(rows)
        vectors.append(np.stack(values))
    return VectorReference(witness.name, tuple(groups), texts, tokens, vectors)


def _texts(group: Group, *, asymmetric: bool) -> list[Text]:
    query = Text(f"{group.name}[query]", group.query, "query" if asymmetric else None)
    kind: InputType | None = "passage" if asymmetric else None
    return [query, *(Text(group.label(i), p, kind) for i, p in enumerate(group.passages))]


def _refuse_unknown_ids(row: Tokens, vocabulary: int) -> None:
    largest = max(row.token_ids, default=0)
    if largest >= vocabulary:
        raise CheckpointRefused(
            f"the tokenizer gives the id {largest}, but config.json has vocab_size = {vocabulary}; "
            "tokenizer and weights are not of one checkpoint"
        )


def _refuse_broken(values: Values, label: str) -> None:
    broken = values[~np.isfinite(values)]
    if len(broken):
        raise CheckpointRefused(
            f"the checkpoint itself gives {broken[0]} for {label}; its weights are broken, train "
            "or download it again"
        )
