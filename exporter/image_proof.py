"""How a model that takes images is proven: as one of texts, and by its images."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tokenizers

from exporter.answers import Tokens
from exporter.image_answers import ImageAnswers
from exporter.image_parity import check_image_inputs, check_images, image_goldens
from exporter.proof import Proof
from exporter.report import Parity
from runtime.manifest import Manifest
from runtime.model import Model


class ImageProof(Proof):
    """The proof of the `texts`, and the witness's `answers` about images."""

    def __init__(self, texts: Proof, manifest: Manifest, answers: ImageAnswers) -> None:
        self._texts = texts
        self._manifest = manifest
        self._answers = answers
        self._alone: list[list[np.ndarray]] = []

    def rows(self) -> Iterator[Tokens]:
        """See Proof: those of texts."""
        return self._texts.rows()

    def flat(self) -> str | None:
        """See Proof."""
        return self._texts.flat()

    def check_tokens(self, report: Parity, tokenizer: tokenizers.Tokenizer) -> None:
        """See Proof; pixels as well."""
        self._texts.check_tokens(report, tokenizer)
        check_image_inputs(report, self._answers, self._manifest, tokenizer)

    def check_outputs(self, report: Parity, model: Model) -> None:
        """See Proof."""
        self._texts.check_outputs(report, model)
        self._alone = check_images(report, self._answers, model)

    def goldens(self, report: Parity) -> Mapping[str, Any]:
        """See Proof."""
        images = image_goldens(self._manifest, self._answers, self._alone)
        return {**self._texts.goldens(report), "image_goldens": images}
