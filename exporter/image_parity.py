"""The rungs of models that take images, beside those of texts.

image tokens      ids of rows with images, ours against the witness's, id by id
pixels            the sha256 of what the tower reads of every image
image embeddings  the components of the tower's output, one by one
image logits      a reranker's logits or an embedder's components: alone, with the group, shuffled
image ranking     Kendall's tau over each group, as of texts
"""

import hashlib
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import tokenizers

from exporter.answers import Scores
from exporter.errors import ParityFailed
from exporter.image_answers import ImageAnswer, ImageAnswers
from exporter.parity import LOGIT_TOLERANCE, LOWEST_TAU, RANDOM_SHARE, kendall_tau
from exporter.parity_images import ImageGroup, ImagePassage
from exporter.report import Parity, Rung
from exporter.vector_parity import COMPONENT_TOLERANCE, COSINE_TOLERANCE, cosines
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


def check_image_inputs(
    report: Parity, answers: ImageAnswers, manifest: Manifest, tokenizer: tokenizers.Tokenizer
) -> None:
    """The first two rungs, which need no engine. Records them and raises ParityFailed."""
    assert manifest.vision is not None
    pixels: dict[bytes, tuple[str, int]] = {}
    for group in answers.groups:
        for image in (passage.image for passage in group.passages):
            if image is not None and image not in pixels:
                tiles = cut(
                    open_image(image, TextPlace("a parity image")).decode(), manifest.vision.rule
                )
                pixels[image] = _digest(pixel_values(tiles)), len(tiles)
    failure = None
    count = 0
    for group, rows in zip(answers.groups, answers.answers, strict=True):
        found = _encoded(group, manifest, tokenizer, pixels)
        for index, (row, answer) in enumerate(zip(found.rows, rows, strict=True)):
            count += 1
            differs = _difference(row.token_ids.tolist(), answer.tokens.token_ids)
            if differs and failure is None:
                failure = f"{group.label(index)}: {differs}"
    _record(report, "image tokens", Rung(pairs=count, passed=failure is None), failure)
    failure = None
    for group, index, passage, answer in _flat(answers):
        if passage.image is not None and pixels[passage.image][0] != answer.pixels:
            failure = failure or (
                f"{group.label(index)}: the witness reads the pixels {answer.pixels}, the runtime "
                f"{pixels[passage.image][0]} (sha256 of float32 [tiles, 3, size, size])"
            )
    _record(report, "pixels", Rung(pairs=len(pixels), passed=failure is None), failure)


def check_images(report: Parity, answers: ImageAnswers, model: Model) -> list[list[np.ndarray]]:
    """The other rungs; what the engine gives for each passage alone. Records them and raises
    ParityFailed."""
    assert model.tower is not None
    _check_embeddings(report, answers, model.tower)
    ways = [_outputs(group, model) for group in answers.groups]
    wanted = [np.stack([answer.outputs for answer in rows]) for rows in answers.answers]
    tolerance = _tolerance(report, wanted, model)
    deltas = [np.abs(np.stack(way) - truth) for way, truth in zip(ways, wanted, strict=True)]
    excess = [
        delta / np.maximum(1.0, np.abs(truth) / _LARGEST)
        for delta, truth in zip(deltas, wanted, strict=True)
    ]
    worst = int(np.argmax([part.max() for part in excess]))
    passed = not _gated(report) or bool(excess[worst].max() <= tolerance)
    passage = int(excess[worst].max(axis=(0, 2)).argmax())
    rung = Rung(
        pairs=sum(map(len, wanted)),
        max_abs_delta=float(max(part.max() for part in deltas)),
        reference_std=float(np.concatenate(wanted).std()),
        tolerance=tolerance if _gated(report) else None,
        batch_max_abs_delta=float(max(np.abs(w[1] - w[0]).max() for w in ways)),
        passed=passed,
    )
    told = (
        f"{answers.groups[worst].label(passage)}: outputs differ from the witness's by up to "
        f"{float(deltas[worst][:, passage].max()):.2g}, tolerance {tolerance:.2g}"
    )
    _record(report, "image logits", rung, None if passed else told)
    _check_ranking(report, answers, ways, wanted, tolerance, model)
    return [list(way[0]) for way in ways]


def image_goldens(
    manifest: Manifest, answers: ImageAnswers, alone: Sequence[Sequence[np.ndarray]]
) -> list[ImageGolden]:
    """The first uncut passages with images of few tiles, the more expensive one last."""
    found: dict[int, ImageGolden] = {}
    outputs = [output for rows in alone for output in rows]
    for (group, _, passage, answer), output in zip(_flat(answers), outputs, strict=True):
        if passage.image is None or answer.embeds is None or answer.pixels is None:
            continue
        if len(answer.tokens.token_ids) < manifest.max_tokens:
            golden = ImageGolden(
                image=passage.image,
                query=group.query if manifest.kind == "rank" else "",
                text=passage.text,
                token_ids=answer.tokens.token_ids,
                pixels=answer.pixels,
                outputs=output.tolist(),
            )
            found.setdefault(len(answer.embeds), golden)
    return [found[tiles] for tiles in sorted(found)][:GOLDENS]


def _difference(ours: list[int], theirs: list[int]) -> str | None:
    if ours == theirs:
        return None
    alike = [a == b for a, b in zip(ours, theirs, strict=False)]
    at = alike.index(False) if False in alike else len(alike)
    return (
        f"from token {at} the witness is fed {theirs[at : at + 6]} ({len(theirs)} in all), the "
        f"runtime reads {ours[at : at + 6]} ({len(ours)} in all)"
    )


def _encoded(
    group: ImageGroup,
    manifest: Manifest,
    tokenizer: tokenizers.Tokenizer,
    pixels: dict[bytes, tuple[str, int]],
) -> Encodings:
    vision = manifest.vision
    assert vision is not None
    passages = []
    for passage in group.passages:
        image = None
        if passage.image is not None:
            shape = (pixels[passage.image][1], vision.tokens, vision.hidden)
            image = ImageEmbeddings(passage.image, np.empty(shape, np.float32))
        passages.append(Passage(passage.text, image))
    if manifest.kind == "embed":
        embedder = text_encoder(manifest, tokenizer, manifest.max_tokens)
        return embedder.encode(EmbedRequest(passages, "passage", truncate="END"))
    ranker = pair_encoder(manifest, tokenizer, manifest.max_tokens)
    return ranker.encode(RankRequest(group.query, passages, truncate="END"))


def _check_embeddings(report: Parity, answers: ImageAnswers, tower: Tower) -> None:
    largest, count, failure = 0.0, 0, None
    wanted = [a.embeds for _, _, _, a in _flat(answers) if a.embeds is not None]
    everything = np.concatenate([one.reshape(-1) for one in wanted])
    spread = float(everything.std())
    tolerance = LOGIT_TOLERANCE[report.precision]
    if report.rule == "random-weights":
        tolerance = RANDOM_SHARE[report.precision] * spread
    for group, index, passage, answer in _flat(answers):
        if passage.image is None or answer.embeds is None:
            continue
        with tower.embedded(EmbedRequest([Passage(image=passage.image)])) as seen:
            (found,) = images_of(seen)
            assert isinstance(found, ImageEmbeddings)
            delta = np.abs(found.embeds - answer.embeds)
        count += 1
        largest = max(largest, float(delta.max()))
        excess = float((delta / np.maximum(1.0, np.abs(answer.embeds) / _LARGEST)).max())
        if _gated(report) and excess > tolerance and failure is None:
            failure = (
                f"{group.label(index)}: image embeddings differ from the witness's by up to "
                f"{delta.max():.2g}, tolerance {tolerance:.2g}"
            )
    rung = Rung(
        pairs=count,
        max_abs_delta=largest,
        reference_std=spread,
        tolerance=tolerance if _gated(report) else None,
        passed=failure is None,
    )
    _record(report, "image embeddings", rung, failure)


def _check_ranking(
    report: Parity,
    answers: ImageAnswers,
    ways: Sequence[Sequence[np.ndarray]],
    wanted: Sequence[np.ndarray],
    tolerance: float,
    model: Model,
) -> None:
    concordant = discordant = tied = 0
    gap = 2 * tolerance
    if isinstance(model, Embedder):
        gap = 2 * COSINE_TOLERANCE[report.precision]
    for number, truth in enumerate(wanted):
        theirs, ours = (_scores(answers, number, rows) for rows in (truth, ways[number][1]))
        *counts, _ = kendall_tau(theirs, ours, gap)
        concordant, discordant, tied = (
            total + one for total, one in zip((concordant, discordant, tied), counts, strict=True)
        )
    compared = concordant + discordant + tied
    tau = None
    if compared:
        tau = float((concordant - discordant) / np.sqrt(compared * max(1, compared - tied)))
    lowest = LOWEST_TAU[report.precision]
    gated = report.rule == "trained"
    passed = not gated or (tau is not None and tau >= lowest)
    rung = Rung(
        pairs=compared,
        kendall_tau=tau,
        tolerance=lowest if gated else None,
        passed=passed,
    )
    told = f"Kendall's tau is {tau} over {compared} pairs of passages, tolerance {lowest}"
    _record(report, "image ranking", rung, None if passed else told)


def _scores(answers: ImageAnswers, number: int, outputs: np.ndarray) -> Scores:
    """float64 [passages]: a reranker's logits, an embedder's cosines to the query."""
    if not answers.queries:
        return cast(Scores, outputs[:, 0])
    return cosines(np.concatenate([answers.queries[number][None], outputs]))


def _outputs(group: ImageGroup, model: Model) -> list[np.ndarray]:
    """float64 [passages, components]: each alone, with its group, and with its group shuffled."""
    passages = [Passage(one.text, one.image) for one in group.passages]
    order = np.random.default_rng(0).permutation(len(passages))
    shuffled = _answer(group, [passages[place] for place in order], model)
    back = np.empty_like(shuffled)
    back[order] = shuffled
    alone = np.concatenate([_answer(group, [passage], model) for passage in passages])
    return [alone, _answer(group, passages, model), back]


def _answer(group: ImageGroup, passages: list[Passage], model: Model) -> np.ndarray:
    if isinstance(model, Ranker):
        found: Any = model.rank(RankRequest(group.query, passages, truncate="END")).logits[:, None]
    else:
        assert isinstance(model, Embedder)
        found = model.embed(EmbedRequest(passages, "passage", truncate="END")).vectors
    return np.asarray(found, np.float64)


def _tolerance(report: Parity, wanted: Sequence[np.ndarray], model: Model) -> float:
    everything = np.concatenate(wanted)
    if report.rule == "random-weights":
        return RANDOM_SHARE[report.precision] * float(everything.std())
    if isinstance(model, Ranker):
        return LOGIT_TOLERANCE[report.precision]
    return COMPONENT_TOLERANCE * max(1.0, float(np.linalg.norm(everything, axis=1).max()))


def _gated(report: Parity) -> bool:
    """Coarser precisions of trained weights go by tau alone, as of texts."""
    return report.precision == "fp32" or report.rule == "random-weights"


def _record(report: Parity, name: str, rung: Rung, failure: str | None) -> None:
    report.rungs[name] = rung
    if failure:
        raise ParityFailed(name, failure)


def _flat(
    answers: ImageAnswers,
) -> list[tuple[ImageGroup, int, ImagePassage, ImageAnswer]]:
    return [
        (group, index, passage, answer)
        for group, rows in zip(answers.groups, answers.answers, strict=True)
        for index, (passage, answer) in enumerate(zip(group.passages, rows, strict=True))
    ]


def _digest(pixels: np.ndarray) -> str:
    return hashlib.sha256(pixels.tobytes()).hexdigest()
