"""Collect the reference's answers to the parity texts, one row at a time: of the checkpoint's
witness, or of the proven artifact that is quantized.

Always in float32 on the CPU: a reference in bfloat16, as PyTorch users run on a GPU, would be less
exact than the graphs that are compared with it.
"""

import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from exporter.answers import Outputs, Reference, Text, Tokens
from exporter.checkpoint import Checkpoint, load_model
from exporter.draft import Draft
from exporter.errors import CheckpointRefused, NoWitness, ReportRefused
from exporter.image_reference import ask_images
from exporter.library_texts import candidate_groups
from exporter.pad_token import drop_pad
from exporter.parity_texts import Group, added_tokens_group, parity_groups
from exporter.progress import stage
from exporter.reference_file import REFERENCE_FILE, read_reference
from exporter.stand_in import artifact_reading, own_reading
from exporter.tokens import CheckpointTokenizer
from exporter.tokens import load_tokenizer as load_checkpoint_tokenizer
from exporter.tolerances import LOW_PRECISIONS
from exporter.witness import rank_witness, vector_witness
from exporter.witness.adapters import Adapted
from exporter.witness.base import RankWitness, Values, VectorWitness, Witness
from runtime.manifest import TOKENIZER_FILE, Manifest
from runtime.postprocess import InputType
from runtime.text import load_tokenizer

# Returns the answers that prove an artifact of a draft: `ask_witness`, or a cache of it.
AskWitness = Callable[..., Reference]


def ask_witness(found: Draft, checkpoint: Checkpoint, *, unwitnessed: bool = False) -> Reference:
    """The answers that prove an artifact of this draft.

    The witness is freed afterwards, as two copies of the weights are too many. Without a witness,
    and if `unwitnessed` allows it, the exporter's own model answers and is named as such. Raises
    NoWitness and CheckpointRefused.
    """
    with stage("ask the witness about the parity texts"):
        try:
            answers = _ask(found, checkpoint, _witness(found, checkpoint))
        except NoWitness as error:
            if not unwitnessed:
                raise NoWitness(
                    f"found no witness for the scores of this checkpoint: {error}; repair the "
                    "folder, or export it anyway with --unwitnessed: wherever artifacts are called "
                    "proven, this one is then called not witnessed"
                ) from error
            why = str(error)
        else:
            gc.collect()  # the witness is gone, but for what its hooks refer to
            return answers
        model = load_model(found.checkpoint)
        own = own_reading(model, found.tokenizer, found.manifest, why)
        return _ask(found, checkpoint, own)


def ask_artifact(source: Path, manifest: Manifest, engine: str, quantized: Manifest) -> Reference:
    """The answers of the proven artifact in `source`, with this `manifest`, on `engine`, tokenised
    by transformers as well; they prove the `quantized` one. About images they are its witness's,
    which the artifact keeps. Raises ReportRefused."""
    images = read_reference(source).images if manifest.vision is not None else None
    if manifest.vision is not None and images is None:
        raise ReportRefused(
            f"found no answers about images in {REFERENCE_FILE}; name the --checkpoint to prove "
            "against, or export it again with this version"
        )
    # First, as it refuses files that transformers would accept.
    vocabulary = load_tokenizer(source / TOKENIZER_FILE).get_vocab_size()
    place = source / "tokenizer"
    loaded = load_checkpoint_tokenizer(place, None)
    dropped = drop_pad(loaded, vocabulary)  # the pad token, if transformers' class adds it again
    tokenizer = CheckpointTokenizer(
        loaded,
        place,
        manifest.prompt,
        manifest.max_tokens,
        dropped,
        apart=manifest.tokenize_apart,
    )
    with (
        stage("ask the artifact about the parity texts"),
        artifact_reading(source, engine, manifest, tokenizer) as artifact,
    ):
        answers = _collect(quantized, artifact, tokenizer, vocabulary)
        return replace(answers, images=images)


def _witness(found: Draft, checkpoint: Checkpoint) -> Witness:
    where = checkpoint.root, checkpoint.directory, checkpoint.config
    own = checkpoint.adapter
    adapted = None if own is None else Adapted(checkpoint.base, own.directory)
    if checkpoint.vectors is None:
        apart = found.manifest.tokenize_apart
        return rank_witness(*where, found.template, found.words, adapted, apart)
    requested = found.prefixes, checkpoint.vectors.requested_pooling
    return vector_witness(*where, found.published, *requested, adapted)


def _ask(found: Draft, checkpoint: Checkpoint, witness: Witness) -> Reference:
    manifest = found.manifest
    _refuse_other_activation(manifest, witness)
    answers = _collect(manifest, witness, found.tokenizer, checkpoint.config["vocab_size"])
    if manifest.vision is not None:
        answers = replace(answers, images=ask_images(manifest, witness))
    return answers


def _refuse_other_activation(manifest: Manifest, witness: Witness) -> None:
    theirs = witness.activation if isinstance(witness, RankWitness) else None
    if theirs is not None and theirs != manifest.activation:
        raise CheckpointRefused(
            f"{witness.name} maps logits to a relevance by {theirs}, the exporter reads "
            f"{manifest.activation} in the folder; name one activation_fn in "
            "config_sentence_transformers.json or config.json"
        )


@dataclass(frozen=True)
class _Row:
    """One pair or text: its label in reports, the tokens that are kept of it, whether the witness
    is fed these, and how it is asked about the raw texts."""

    label: str
    kept: Tokens
    by_ids: bool
    ask: Callable[[], tuple[Tokens, Values]]


def _collect(
    manifest: Manifest, witness: Witness, tokenizer: CheckpointTokenizer, vocabulary: int
) -> Reference:
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
    texts = None
    if isinstance(witness, RankWitness):
        asked = [_pairs(witness, tokenizer, group) for group in groups]
    else:
        assert isinstance(witness, VectorWitness)
        texts = [_texts(group, asymmetric=bool(manifest.prefixes)) for group in groups]
        asked = [_single_texts(witness, tokenizer, manifest.prefixes, some) for some in texts]
    tokens: list[list[Tokens]] = []
    outputs: list[Outputs] = []
    for group in asked:
        answers = [_answer(witness, row, vocabulary) for row in group]
        tokens.append([row for row, _ in answers])
        outputs.append(np.stack([values for _, values in answers]))
    return Reference(witness.name, groups, tokens, outputs, texts)


def _pairs(witness: RankWitness, tokenizer: CheckpointTokenizer, group: Group) -> Iterator[_Row]:
    for index, passage in enumerate(group.passages):
        pair = group.query, passage
        kept, cut = tokenizer.encode(*pair)
        by_ids = cut or tokenizer.reads_alone(*pair)
        yield _Row(group.label(index), kept, by_ids, partial(witness.score, *pair))


def _single_texts(
    witness: VectorWitness,
    tokenizer: CheckpointTokenizer,
    prefixes: dict[str, str],
    texts: list[Text],
) -> Iterator[_Row]:
    for one in texts:
        kept, cut = tokenizer.encode_text(prefixes.get(one.input_type or "", "") + one.text)
        by_ids = cut or tokenizer.reads_alone(one.text)
        yield _Row(one.label, kept, by_ids, partial(witness.embed, one.text, one.input_type))


def _texts(group: Group, *, asymmetric: bool) -> list[Text]:
    query = Text(f"{group.name}[query]", group.query, "query" if asymmetric else None)
    kind: InputType | None = "passage" if asymmetric else None
    return [query, *(Text(group.label(i), p, kind) for i, p in enumerate(group.passages))]


def _answer(witness: Witness, row: _Row, vocabulary: int) -> tuple[Tokens, Values]:
    largest = max(row.kept.token_ids, default=0)
    if largest >= vocabulary:
        raise CheckpointRefused(
            f"the tokenizer gives the id {largest}, but config.json has vocab_size = {vocabulary}; "
            "tokenizer and weights are not of one checkpoint"
        )
    found, values = (row.kept, witness.values(row.kept)) if row.by_ids else row.ask()
    broken = values[~np.isfinite(values)]
    if len(broken):
        raise CheckpointRefused(
            f"the checkpoint itself gives {broken[0]} for {row.label}; its weights are broken, "
            "train or download it again"
        )
    return found, values
