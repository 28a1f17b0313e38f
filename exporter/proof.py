"""The parity ladder of one artifact: what is asked, and what differs between the kinds of models.

One object has the reference answers, climbs the rungs of exporter.parity, and gives the goldens.
The pipeline makes it before anything is written.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, cast

import msgspec
import numpy as np
import tokenizers

from exporter import tolerances
from exporter.answers import Outputs, Reference, Tokens, cosines
from exporter.errors import ParityFailed
from exporter.parity import (
    WAYS,
    Judging,
    check_ranking,
    check_tokens,
    computed_in_ways,
    dependence,
    flatness,
    judge_values,
    raise_failures,
    spread_of,
)
from exporter.progress import stage
from exporter.report import Parity, Rung
from exporter.tolerances import TOLERANCES
from runtime.embedder import Embedder
from runtime.errors import NonFiniteScore
from runtime.manifest import TOKENIZER_FILE, Golden, Manifest, VectorGolden
from runtime.model import Model
from runtime.opening import open_model
from runtime.ranker import Ranker
from runtime.requests import EmbedRequest, RankRequest
from runtime.text import Encoding, load_tokenizer
from runtime.vision import naming_pillow
from runtime.vision.encoding import pair_encoder, text_encoder

GOLDENS = 4


class Proof(ABC):
    """The `reference` answers to the parity texts, and to images if there are any, which an
    artifact must reproduce."""

    # What reports call a row, its computation, and what orders passages.
    _row, _computing, _scores = "", "", ""

    def __init__(self, manifest: Manifest, reference: Reference) -> None:
        self.reference = reference
        self._manifest = manifest
        self._alone: list[Outputs] = []
        self._images = None
        if reference.images is not None:
            with naming_pillow():
                from exporter.image_parity import ImageLadder  # late: needs Pillow
            self._images = ImageLadder(manifest, reference.images)

    def rows(self) -> Iterator[Tokens]:
        """The tokens of every parity text or pair."""
        return chain.from_iterable(self.reference.tokens)

    def record_cut(self, report: Parity) -> None:
        """Record in `report` that some rows were longer than the artifact takes, and how they were
        compared: NIMs cut only the passage, which no loader does."""
        most = self._manifest.max_tokens
        if cut := sum(len(row.token_ids) >= most for row in self.rows()):
            report.cut = (
                f"{cut} rows of {most} tokens or more: of a pair the passage alone is cut, "
                "and the witness's model is fed the ids that are kept"
            )

    def flat(self) -> str | None:
        """The warning if the reference's scores barely differ, else None."""
        return flatness(self.reference.scores(self.reference.outputs), self._scores)

    def check_tokens(self, report: Parity, directory: Path) -> None:
        """The first rung, of the tokenizer in `directory`; of images their pixels as well. Records
        it in `report` and raises ParityFailed."""
        tokenizer = load_tokenizer(directory / TOKENIZER_FILE)
        found, labels = self._encoded(tokenizer), self.reference.labels()
        check_tokens(report, zip(labels, found, self.rows(), strict=True))
        if self._images is not None:
            self._images.check_inputs(report, tokenizer)

    def check_engine(self, report: Parity, directory: Path, *, host_code: bool = False) -> None:
        """The other rungs, on the engine of `report` with the files in `directory`; likewise."""
        engine = report.engine
        with stage(f"prove parity on {engine}"):
            model = open_model(
                directory, manifest=self._manifest, engine=engine, host_code=host_code
            )
            with closing(model):
                self.check_outputs(report, model)

    def check_outputs(self, report: Parity, model: Model) -> None:
        """The other rungs, through the runtime's `model`; likewise."""
        reference = self.reference
        wanted = np.concatenate(reference.outputs)
        judging = self._judging(report, wanted)
        shuffle = np.random.default_rng(0)
        try:
            groups = [
                computed_in_ways(len(rows), partial(self._compute, model, group), shuffle)
                for group, rows in enumerate(reference.tokens)
            ]
        except NonFiniteScore as error:
            report.rungs["logits"] = Rung(
                pairs=len(wanted), tolerance=judging.tolerance, passed=False
            )
            raise ParityFailed("logits", str(error)) from error
        alone, together, shuffled = zip(*groups, strict=True)
        ways = [np.concatenate(way) for way in (alone, together, shuffled)]
        orders = zip(
            reference.groups,
            reference.scores(reference.outputs),
            reference.scores(together),
            strict=True,
        )
        raise_failures(
            logits=self._check_values(report, wanted, ways, judging),
            ranking=check_ranking(report, list(orders), judging.gap),
        )
        self._alone = list(alone)
        if self._images is not None:
            self._images.check_outputs(report, model)

    def _check_values(
        self, report: Parity, wanted: Outputs, ways: Sequence[Outputs], judging: Judging
    ) -> str | None:
        """Records the second rung and returns what failed, if anything did."""
        rung, (way, row, component) = judge_values(wanted, ways, judging)
        place = ""
        if self.reference.texts is not None:
            pairs = np.concatenate([np.stack([wanted, rows], axis=1) for rows in ways])
            lowest = min(float(cosines(pair)[0]) for pair in pairs)
            rung = msgspec.structs.replace(rung, lowest_cosine=lowest)
            place = f" as component {component}"
        report.rungs["logits"] = rung
        if rung.passed:
            return dependence(report)
        theirs, ours = wanted[row, component], ways[way][row, component]
        return (
            f"{self._row} {self.reference.labels()[row]}: the checkpoint gives {theirs:.6f}{place}"
            f", {report.engine} {self._computing} it {WAYS[way]} gives {ours:.6f}; they differ by "
            f"{abs(theirs - ours):.2g}, tolerance {judging.tolerance:.2g} ({report.rule}, "
            f"{report.precision}). If the precision is the cause, export with a target of higher "
            "precision"
        )

    def goldens(self, report: Parity) -> dict[str, Any]:
        """Fields of the manifest: recorded answers of the engine, after all rungs.

        Never cut texts: goldens are encoded without truncation when the artifact is opened.
        """
        found = self._goldens(report)
        if self._images is not None:
            found["image_goldens"] = self._images.goldens()
        return found

    def _uncut(self, most: int) -> list[tuple[int, int]]:
        """Group and row of the first GOLDENS uncut rows, at most so many of each group."""
        found: list[tuple[int, int]] = []
        for group, tokens in enumerate(self.reference.tokens):
            lengths = enumerate(len(row.token_ids) for row in tokens)
            uncut = [row for row, length in lengths if length < self._manifest.max_tokens]
            found += [(group, row) for row in uncut[:most]]
        return found[:GOLDENS]

    @abstractmethod
    def _encoded(self, tokenizer: tokenizers.Tokenizer) -> Iterator[Encoding]:
        """The runtime's tokens of every row."""

    @abstractmethod
    def _compute(self, model: Model, group: int, rows: Sequence[int]) -> Outputs:
        """The runtime's outputs of these rows of a group, float64 [rows, components]."""

    @abstractmethod
    def _judging(self, report: Parity, wanted: Outputs) -> Judging: ...

    @abstractmethod
    def _goldens(self, report: Parity) -> dict[str, Any]:
        """`goldens` without those of images."""


def make_proof(manifest: Manifest, reference: Reference) -> Proof:
    """The proof for this draft with these answers."""
    kind = RankProof if reference.texts is None else EmbedProof
    return kind(manifest, reference)


class RankProof(Proof):
    """Logits of pairs."""

    _row, _computing, _scores = "pair", "scoring", "scores"

    def _encoded(self, tokenizer: tokenizers.Tokenizer) -> Iterator[Encoding]:
        encoder = pair_encoder(self._manifest, tokenizer, self._manifest.max_tokens)
        for group in self.reference.groups:
            request = RankRequest(group.query, group.passages, truncate="END")
            yield from encoder.encode(request).rows

    def _compute(self, model: Model, group: int, rows: Sequence[int]) -> Outputs:
        asked = self.reference.groups[group]
        passages = [asked.passages[row] for row in rows]
        request = RankRequest(asked.query, passages, truncate="END")
        return cast(Ranker, model).rank(request).logits.astype(np.float64)[:, None]

    def _judging(self, report: Parity, wanted: Outputs) -> Judging:
        spread = spread_of(wanted)
        tolerance = tolerances.within_spread(TOLERANCES[report.precision].logit, spread)
        tolerance = tolerances.by_rule(report, tolerance, spread)
        largest = TOLERANCES[report.precision].largest_logit
        return Judging(
            tolerance=tolerance,
            scale=np.maximum(1.0, np.abs(wanted) / largest),
            gated=tolerances.judges_logits(report),
            gap=tolerance,
        )

    def _goldens(self, report: Parity) -> dict[str, Any]:
        """The first uncut pair of the first groups, scored alone."""
        reference = self.reference
        goldens = [
            Golden(
                query=reference.groups[group].query,
                passage=reference.groups[group].passages[row],
                token_ids=reference.tokens[group][row].token_ids,
                logit=float(self._alone[group][row, 0]),
            )
            for group, row in self._uncut(1)
        ]
        return {"goldens": goldens, "golden_tolerance": golden_tolerance(report)}


class EmbedProof(Proof):
    """Vectors of texts."""

    _row, _computing, _scores = "text", "embedding", "cosines"

    def _encoded(self, tokenizer: tokenizers.Tokenizer) -> Iterator[Encoding]:
        encoder = text_encoder(self._manifest, tokenizer, self._manifest.max_tokens)
        for text in chain.from_iterable(self.reference.texts or ()):
            request = EmbedRequest([text.text], text.input_type, truncate="END")
            yield from encoder.encode(request).rows

    def _compute(self, model: Model, group: int, rows: Sequence[int]) -> Outputs:
        """One request for each input type among the rows."""
        assert self.reference.texts is not None
        texts = [self.reference.texts[group][row] for row in rows]
        vectors: dict[int, Outputs] = {}
        for input_type in dict.fromkeys(text.input_type for text in texts):
            places = [i for i, text in enumerate(texts) if text.input_type == input_type]
            request = EmbedRequest([texts[i].text for i in places], input_type, truncate="END")
            found = cast(Embedder, model).embed(request)
            vectors |= zip(places, found.vectors.astype(np.float64), strict=True)
        return np.stack([vectors[i] for i in range(len(texts))])

    def _judging(self, report: Parity, wanted: Outputs) -> Judging:
        return Judging(
            tolerance=tolerances.by_rule(report, tolerances.COMPONENT, spread_of(wanted)),
            scale=np.maximum(1.0, np.linalg.norm(wanted, axis=1, keepdims=True)),
            gated=tolerances.judges_values(report),
            gap=TOLERANCES[report.precision].cosine,
        )

    def _goldens(self, report: Parity) -> dict[str, Any]:
        """Query and passage of the first groups, if they are uncut."""
        texts = self.reference.texts
        assert texts is not None
        goldens = [
            VectorGolden(
                text=texts[group][row].text,
                input_type=texts[group][row].input_type,
                token_ids=self.reference.tokens[group][row].token_ids,
                vector=self._alone[group][row].tolist(),
            )
            for group, row in self._uncut(2)
        ]
        return {
            "vector_goldens": goldens,
            "golden_tolerance": vector_golden_tolerance(report, self.reference),
        }


def golden_tolerance(report: Parity) -> float:
    """How far a golden may be from its recorded logit when the artifact is opened elsewhere.

    Half precision differs between machines by about as much as from the reference.
    """
    logits = report.rungs["logits"]
    if report.precision == "fp32":
        share = (logits.tolerance or 0.0) / TOLERANCES["fp32"].logit
        return tolerances.GOLDEN_LOGIT * share
    return max(TOLERANCES[report.precision].logit, 2 * (logits.max_abs_delta or 0.0))


def vector_golden_tolerance(report: Parity, reference: Reference) -> float:
    """How far a component may be from its recorded value when the artifact is opened elsewhere."""
    scale = max(1.0, float(np.linalg.norm(np.concatenate(reference.outputs), axis=1).max()))
    widest = TOLERANCES[report.precision].golden_component * scale
    if report.precision == "fp32":
        return widest
    return max(widest, 2 * (report.rungs["logits"].max_abs_delta or 0.0))
