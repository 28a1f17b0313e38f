"""What a witness answers about images: tokens, pixels, embeddings and outputs."""

import hashlib
from dataclasses import dataclass

import numpy as np

from exporter.answers import Tokens
from exporter.errors import CheckpointRefused, NoWitness
from exporter.parity_images import ImageGroup, image_groups
from exporter.witness.base import Values, Witness
from exporter.witness.nemotron_vl import Sight, VisionEmbedder, VisionReranker
from runtime.manifest import Manifest


@dataclass(frozen=True)
class ImageAnswer:
    """The answer about one passage: its tokens, cut at the end where they are too many, its outputs
    (a reranker's logit is one), and of its image the sha256 of the pixels and the embeddings
    float32 [tiles, tokens, hidden]."""

    tokens: Tokens
    outputs: Values
    pixels: str | None = None
    embeds: np.ndarray | None = None


@dataclass(frozen=True)
class ImageAnswers:
    """The groups, and `answers[g][p]` about passage p of group g; of an embedder `queries[g]` is
    the vector of the group's query."""

    groups: tuple[ImageGroup, ...]
    answers: list[list[ImageAnswer]]
    queries: list[Values]


def ask_images(manifest: Manifest, witness: Witness) -> ImageAnswers:
    """Ask about all images. Raises NoWitness where the witness cannot see, CheckpointRefused where
    the limit leaves no room for any image."""
    assert manifest.vision is not None
    groups = image_groups(manifest.vision, manifest.max_tokens)
    if not any(passage.image for group in groups for passage in group.passages):
        raise CheckpointRefused(
            f"found a limit of {manifest.max_tokens} tokens, which leaves no room for an image of "
            f"one tile ({manifest.vision.tokens} tokens) beside a text; raise --max-tokens"
        )
    seen: dict[bytes, Sight] = {}
    answers: list[list[ImageAnswer]] = []
    queries: list[Values] = []
    for group in groups:
        rows = []
        for passage in group.passages:
            sight = None
            if passage.image is not None:
                if passage.image not in seen:
                    seen[passage.image] = _see(witness, passage.image)
                sight = seen[passage.image]
            rows.append(_ask(manifest, witness, group.query, passage.text, sight))
        answers.append(rows)
        if isinstance(witness, VisionEmbedder):
            queries.append(witness.embed(group.query, "query")[1])
    return ImageAnswers(groups, answers, queries)


def _see(witness: Witness, image: bytes) -> Sight:
    if not isinstance(witness, VisionReranker | VisionEmbedder):
        raise NoWitness("nobody else can say what the model makes of images")
    return witness.see(image)


def _ask(
    manifest: Manifest, witness: Witness, query: str, text: str, sight: Sight | None
) -> ImageAnswer:
    if isinstance(witness, VisionReranker):
        told = (
            witness.score(query, text) if sight is None else witness.score_image(query, text, sight)
        )
    else:
        assert isinstance(witness, VisionEmbedder)
        told = witness.embed(text, "passage") if sight is None else witness.embed_image(text, sight)
    tokens, outputs = told
    if len(tokens.token_ids) > manifest.max_tokens:
        # Upstream cuts the end of the whole row, which here is the passage's.
        tokens = Tokens(tokens.token_ids[: manifest.max_tokens], None)
        outputs = witness.values(tokens, sight)
    if sight is None:
        return ImageAnswer(tokens, outputs)
    digest = hashlib.sha256(sight.pixels.tobytes()).hexdigest()
    return ImageAnswer(tokens, outputs, digest, sight.embeds)
