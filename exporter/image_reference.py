"""Collect a witness's answers about images: tokens, pixels, embeddings and outputs."""

import hashlib
from collections.abc import Callable
from functools import cache

from exporter.answers import ImageAnswer, ImageAnswers, Tokens
from exporter.errors import CheckpointRefused, NoWitness
from exporter.parity_images import ImageGroup, image_groups
from exporter.witness.base import Witness
from exporter.witness.nemotron_vl import Sight, VisionEmbedder, VisionReranker
from runtime.manifest import Manifest


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
    if not isinstance(witness, VisionReranker | VisionEmbedder):
        raise NoWitness("nobody else can say what the model makes of images")
    see = cache(witness.see)
    answers = [
        [
            _ask(manifest.max_tokens, witness, group, number, see)
            for number in range(len(group.passages))
        ]
        for group in groups
    ]
    queries = []
    if isinstance(witness, VisionEmbedder):
        queries = [witness.embed(group.query, "query")[1] for group in groups]
    return ImageAnswers(answers, queries)


def _ask(
    max_tokens: int,
    witness: VisionReranker | VisionEmbedder,
    group: ImageGroup,
    number: int,
    see: Callable[[bytes], Sight],
) -> ImageAnswer:
    passage = group.passages[number]
    sight = see(passage.image) if isinstance(passage.image, bytes) else None
    if isinstance(witness, VisionReranker):
        asked = group.query, passage.text
        tokens, outputs = (
            witness.score(*asked) if sight is None else witness.score_image(*asked, sight)
        )
    elif sight is None:
        tokens, outputs = witness.embed(passage.text, "passage")
    else:
        tokens, outputs = witness.embed_image(passage.text, sight)
    if len(tokens.token_ids) > max_tokens:
        # Upstream cuts the end of the whole row, which here is the passage's.
        tokens = Tokens(tokens.token_ids[:max_tokens], None)
        outputs = witness.values(tokens, sight)
    digest, embeds = None, None
    if sight is not None:
        digest, embeds = hashlib.sha256(sight.pixels.tobytes()).hexdigest(), sight.embeds
    return ImageAnswer(group.label(number), group.query, passage, tokens, outputs, digest, embeds)
