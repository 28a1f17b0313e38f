"""The rungs of models that take images, beside those of texts.

image tokens      ids of rows with images, ours against the witness's, id by id
pixels            the sha256 of what the tower reads of every image
image embeddings  the components of the tower's output, one by one
image logits      a reranker's logits or an embedder's components: alone, with the group, shuffled
image ranking     Kendall's tau over each group, as of texts
"""

import hashlib
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain

import msgspec
import numpy as np
import tokenizers

from exporter import tolerances
from exporter.answers import ImageAnswer, ImageAnswers, Outputs, Scores, cosines
from exporter.parity import (
    Judging,
    batch_delta,
    compare_order,
    computed_in_ways,
    first_difference,
    judge_values,
    record,
)
from exporter.report import Parity, Rung
from exporter.tolerances import TOLERANCES
from runtime.embedder import Embedder
from runtime.errors import TextPlace
from runtime.manifest import ImageGolden, Manifest
from runtime.model import Model
from runtime.ranker import Ranker
from runtime.requests import EmbedRequest, ImageEmbeddings, Passage, RankRequest, images_of
from runtime.text import Encodings
from runtime.vision.decoding import open_image
from runtime.vision.encoding import pair_encoder, text_encoder
from runtime.vision.tiling import cut, pixel_values
from runtime.vision.tower import Tower

GOLDENS = 2
# Values beyond this are held to their share of it.
_LARGEST = 5.0


class ImageLadder:
    """The witness's `answers` about images, which an artifact must reproduce."""

    def __init__(self, manifest: Manifest, answers: ImageAnswers) -> None:
        self._manifest = manifest
        self._answers = answers
        self._rows = list(chain.from_iterable(answers.groups))
        self._alone: list[Outputs] = []

    def check_inputs(self, report: Parity, tokenizer: tokenizers.Tokenizer) -> None:
        """The first two rungs, which need no engine. Records them and raises ParityFailed."""
        assert self._manifest.vision is not None
        pixels: dict[bytes, tuple[str, int]] = {}
        for row in self._rows:
            image = row.passage.image
            if isinstance(image, bytes) and image not in pixels:
                opened = open_image(image, TextPlace("a parity image")).decode()
                tiles = cut(opened, self._manifest.vision.rule)
                pixels[image] = _digest(pixel_values(tiles)), len(tiles)
        encoded = [
            found.token_ids.tolist()
            for group in self._answers.groups
            for found in self._encoded(group, tokenizer, pixels).rows
        ]
        compared = [
            (row.label, first_difference(found, row.tokens.token_ids, "token"))
            for found, row in zip(encoded, self._rows, strict=True)
        ]
        failure = next((f"{label}: {differs}" for label, differs in compared if differs), None)
        rung = Rung(pairs=len(compared), passed=failure is None)
        record(report, "image tokens", rung, failure)
        failures = (
            f"{row.label}: the witness reads the pixels {row.pixels}, the runtime "
            f"{pixels[image][0]} (sha256 of float32 [tiles, 3, size, size])"
            for row in self._rows
            if isinstance(image := row.passage.image, bytes) and pixels[image][0] != row.pixels
        )
        failure = next(failures, None)
        record(report, "pixels", Rung(pairs=len(pixels), passed=failure is None), failure)

    def check_outputs(self, report: Parity, model: Model) -> None:
        """The other rungs. Records them and raises ParityFailed."""
        assert model.tower is not None
        self._check_embeddings(report, model.tower)
        groups = [
            computed_in_ways(len(group), partial(_compute, group, model), np.random.default_rng(0))
            for group in self._answers.groups
        ]
        alone, together, shuffled = zip(*groups, strict=True)
        ways = [np.concatenate(way) for way in (alone, together, shuffled)]
        by_group = [np.stack([row.outputs for row in rows]) for rows in self._answers.groups]
        wanted = np.concatenate(by_group)
        judging = self._judging(report, wanted)
        rung, (_, worst, _) = judge_values(wanted, ways, judging)
        rung = msgspec.structs.replace(
            rung,
            rms_delta=None,
            reference_std=float(wanted.std()),
            batch_max_abs_delta=batch_delta(ways[:2]),
        )
        furthest = max(float(np.abs(way[worst] - wanted[worst]).max()) for way in ways)
        failure = (
            f"{self._rows[worst].label}: outputs differ from the witness's by up to "
            f"{furthest:.2g}, tolerance {judging.tolerance:.2g}"
        )
        record(report, "image logits", rung, None if rung.passed else failure)
        self._check_ranking(report, self._scores(by_group), self._scores(together), judging.gap)
        self._alone = list(alone)

    def goldens(self) -> list[ImageGolden]:
        """The first uncut passages with images of few tiles, the more expensive one last."""
        found: dict[int, ImageGolden] = {}
        for row, output in zip(self._rows, np.concatenate(self._alone), strict=True):
            image, most = row.passage.image, self._manifest.max_tokens
            if not isinstance(image, bytes) or row.embeds is None or row.pixels is None:
                continue
            if len(row.tokens.token_ids) < most:
                golden = ImageGolden(
                    image=image,
                    query=row.query if self._manifest.kind == "rank" else "",
                    text=row.passage.text,
                    token_ids=row.tokens.token_ids,
                    pixels=row.pixels,
                    outputs=output.tolist(),
                )
                found.setdefault(len(row.embeds), golden)
        return [found[tiles] for tiles in sorted(found)][:GOLDENS]

    def _encoded(
        self,
        group: list[ImageAnswer],
        tokenizer: tokenizers.Tokenizer,
        pixels: dict[bytes, tuple[str, int]],
    ) -> Encodings:
        manifest, vision = self._manifest, self._manifest.vision
        assert vision is not None
        passages = []
        for row in group:
            image, file = None, row.passage.image
            if isinstance(file, bytes):
                shape = (pixels[file][1], vision.tokens, vision.hidden)
                image = ImageEmbeddings(file, np.empty(shape, np.float32))
            passages.append(Passage(row.passage.text, image))
        if manifest.kind == "embed":
            embedder = text_encoder(manifest, tokenizer, manifest.max_tokens)
            return embedder.encode(EmbedRequest(passages, "passage", truncate="END"))
        ranker = pair_encoder(manifest, tokenizer, manifest.max_tokens)
        return ranker.encode(RankRequest(group[0].query, passages, truncate="END"))

    def _check_embeddings(self, report: Parity, tower: Tower) -> None:
        largest, failure = 0.0, None
        wanted = list(self._embeddings())
        spread = float(np.concatenate([embeds.reshape(-1) for _, _, embeds in wanted]).std())
        tolerance = tolerances.by_rule(report, TOLERANCES[report.precision].logit, spread)
        gated = tolerances.judges_values(report)
        for label, image, embeds in wanted:
            with tower.embedded(EmbedRequest([Passage(image=image)])) as seen:
                (found,) = images_of(seen)
                assert isinstance(found, ImageEmbeddings)
                delta = np.abs(found.embeds - embeds)
            largest = max(largest, float(delta.max()))
            excess = float((delta / np.maximum(1.0, np.abs(embeds) / _LARGEST)).max())
            if gated and excess > tolerance and failure is None:
                failure = (
                    f"{label}: image embeddings differ from the witness's by up to "
                    f"{delta.max():.2g}, tolerance {tolerance:.2g}"
                )
        rung = Rung(
            pairs=len(wanted),
            max_abs_delta=largest,
            reference_std=spread,
            tolerance=tolerance if gated else None,
            passed=failure is None,
        )
        record(report, "image embeddings", rung, failure)

    def _embeddings(self) -> Iterator[tuple[str, bytes, np.ndarray]]:
        """Label, image and the tower's output float32 [tiles, tokens, hidden] of rows with any."""
        for row in self._rows:
            if isinstance(row.passage.image, bytes) and row.embeds is not None:
                yield row.label, row.passage.image, row.embeds

    def _judging(self, report: Parity, wanted: Outputs) -> Judging:
        tolerance, judged = TOLERANCES[report.precision].logit, tolerances.judges_logits
        if self._answers.queries:
            longest = float(np.linalg.norm(wanted, axis=1).max())
            tolerance, judged = tolerances.COMPONENT * max(1.0, longest), tolerances.judges_values
        tolerance = tolerances.by_rule(report, tolerance, float(wanted.std()))
        return Judging(
            tolerance=tolerance,
            scale=np.maximum(1.0, np.abs(wanted) / _LARGEST),
            gated=judged(report),
            gap=TOLERANCES[report.precision].cosine if self._answers.queries else tolerance,
        )

    def _check_ranking(
        self, report: Parity, wanted: Sequence[Scores], found: Sequence[Scores], gap: float
    ) -> None:
        order = compare_order(wanted, found, 2 * gap)
        lowest = TOLERANCES[report.precision].tau
        gated = report.rule == "trained"
        rung = Rung(
            pairs=order.pairs,
            kendall_tau=order.tau,
            tolerance=lowest if gated else None,
            passed=not gated or (order.tau is not None and order.tau >= lowest),
        )
        failure = (
            f"Kendall's tau is {order.tau} over {order.pairs} pairs of passages, tolerance {lowest}"
        )
        record(report, "image ranking", rung, None if rung.passed else failure)

    def _scores(self, outputs: Sequence[Outputs]) -> list[Scores]:
        """float64 [passages] of each group: a reranker's logits, an embedder's cosines to the
        query."""
        if not self._answers.queries:
            return [rows[:, 0] for rows in outputs]
        queries = zip(self._answers.queries, outputs, strict=True)
        return [cosines(np.concatenate([query[None], rows])) for query, rows in queries]


def _compute(group: list[ImageAnswer], model: Model, rows: Sequence[int]) -> Outputs:
    passages = [group[row].passage for row in rows]
    if isinstance(model, Ranker):
        request = RankRequest(group[0].query, passages, truncate="END")
        return model.rank(request).logits.astype(np.float64)[:, None]
    assert isinstance(model, Embedder)
    found = model.embed(EmbedRequest(passages, "passage", truncate="END"))
    return found.vectors.astype(np.float64)


def _digest(pixels: np.ndarray) -> str:
    return hashlib.sha256(pixels.tobytes()).hexdigest()
