"""Models that take images: which do, whether a corpus' images fit, and a checkpoint's scores."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from recipe.errors import BadConfig
from recipe.evaluation.collection import Collection
from runtime.errors import TextPlace
from runtime.manifest import MANIFEST_FILE, MODEL_FILE, read_manifest
from runtime.requests import Passage
from runtime.vision.rule import TileRule

if TYPE_CHECKING:
    from exporter.checkpoint import Checkpoint

# Images whose pixels and embeddings are kept, some 40 MB each with the 1B model's width.
_KEPT_IMAGES = 16


class Sight(NamedTuple):
    """How a model looks at an image: how it is cut into tiles, and the tokens of each."""

    rule: TileRule
    tokens: int


def sight_of(source: str) -> Sight | None:
    """That of an artifact's directory or a checkpoint (directory or hub id); None of a model that
    takes texts only."""
    directory = Path(source)
    if (directory / MANIFEST_FILE).is_file():
        vision = read_manifest(directory).vision
        return None if vision is None else Sight(vision.rule, vision.tokens)
    if (directory / MODEL_FILE).is_file():  # a bare graph
        return None
    from exporter.architectures.siglip import patches  # late: torch
    from exporter.checkpoint import read_checkpoint

    checkpoint = read_checkpoint(source)
    if checkpoint.vision is None:
        return None
    patches_of_a_tile = patches(checkpoint.config["vision_config"])
    return Sight(checkpoint.vision.rule, (patches_of_a_tile // 2) ** 2)


def require_sight(collection: Collection, sources: Iterable[str], max_tokens: int) -> None:
    """Raise BadConfig for a source that takes no images where the collection has some, and for a
    limit of tokens below that of an image."""
    if not collection.images:
        return
    for source in sources:
        sight = sight_of(source)
        if sight is None:
            (name, image), *_ = collection.images.items()
            raise BadConfig(
                f"found {len(collection.images)} passages with an image (first: {name!r}, "
                f"{image.row}), but {source} takes texts only; wanted a model that takes images, "
                "or a corpus without the column image"
            )
        for name, image in collection.images.items():
            needed = sight.rule.count(image.size) * sight.tokens
            if needed >= max_tokens:
                raise BadConfig(
                    f"found max_length = {max_tokens}, but the image of the passage {name!r} "
                    f"({image.row}) alone takes {needed} tokens with {source}; raise max_length "
                    "to that of the model"
                )


def require_found(collection: Collection, retriever: str) -> None:
    """Raise BadConfig where the first stage cannot find a passage: one without a text, with an
    embedder that takes texts only."""
    textless = [name for name in collection.images if not collection.texts[name]]
    if textless and sight_of(retriever) is None:
        raise BadConfig(
            f"found {len(textless)} passages that are an image alone (first: {textless[0]!r}, "
            f"{collection.images[textless[0]].row}), which retrieval_model = {retriever} cannot "
            "find, as it takes texts only; wanted an embedder that takes images, or a text beside "
            "each image"
        )


class VisionCheckpointScorer:
    """Scores with a checkpoint that takes images, by SigLIP and Llama of transformers, in float32
    on the CPU, row by row."""

    def __init__(self, checkpoint: "Checkpoint", template: str | None, max_tokens: int) -> None:
        """Raises BadConfig for another prompt, or NoWitness."""
        from exporter.witness.nemotron_vl import VisionReranker  # late: torch

        assert checkpoint.vision is not None
        if checkpoint.vision.template != template:
            raise BadConfig(
                f"found prompt_template = {template!r}, but {checkpoint.source} names "
                f"{checkpoint.vision.template!r} itself; set prompt_template to that"
            )
        self._max_tokens = max_tokens
        model = VisionReranker(checkpoint.directory, checkpoint.config)
        self._model = model
        # The same image is a candidate of many queries.
        self._see = lru_cache(_KEPT_IMAGES)(lambda image: model.see(_plain(image)))

    def score(self, query: str, passages: Sequence[str | Passage]) -> list[float]:
        """A logit for each passage, in their order."""
        return [self._logit(query, passage) for passage in passages]

    def _logit(self, query: str, passage: str | Passage) -> float:
        sight, text = None, passage if isinstance(passage, str) else passage.text
        if isinstance(passage, str) or not isinstance(passage.image, bytes):
            tokens, values = self._model.score(query, text)
        else:
            sight = self._see(passage.image)
            tokens, values = self._model.score_image(query, text, sight)
        if len(tokens.token_ids) > self._max_tokens:
            cut = replace(tokens, token_ids=tokens.token_ids[: self._max_tokens])
            values = self._model.values(cut, sight)
        return float(values[0])


def _plain(image: bytes) -> bytes:
    """The image in RGB, as the runtime reads any file: transparency and palettes are read alike in
    all columns."""
    from runtime.vision.decoding import open_image  # late: needs Pillow

    file = BytesIO()
    open_image(image, TextPlace("an image")).decode().save(file, "PNG", compress_level=1)
    return file.getvalue()
