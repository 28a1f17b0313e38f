"""The parity ladder: does the artifact give the checkpoint's tokens, scores and order?

This is a reranker's ladder, exporter.vector_parity an embedder's. Three rungs, each judged on real
pairs of uneven length (exporter.parity_texts):

tokens   the runtime's encoding against the checkpoint's own tokenizer, id by id
logits   float32 PyTorch, one unpadded row a call, against the engine that will serve, through the
         runtime: each pair alone, with its group, and with its group shuffled
ranking  Kendall's tau-b over pairs of passages whose reference scores differ by more than twice
         the logit tolerance (ties and duplicates must not turn on 1e-7), and top-k overlap

Where reference scores barely differ, the tolerance is a share of their deviation.
"""

import importlib.metadata
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from exporter.answers import Reference, Scores, Tokens
from exporter.diagnosis import diagnose_tokens
from exporter.errors import ParityFailed
from exporter.parity_texts import Group
from exporter.report import Parity, Precision, Rule, Rung
from runtime import machine
from runtime.errors import NonFiniteScore
from runtime.profile import TargetProfile
from runtime.ranker import Ranker
from runtime.requests import RankRequest
from runtime.text import Encoding, PairEncoder

# Largest |Δ logit|, for logits up to the largest of this precision; it grows in proportion beyond.
# For fp16 of trained weights it only says which reference scores count as tied: tau alone decides.
LOGIT_TOLERANCE: dict[Precision, float] = {
    "fp32": 1e-4,
    "fp16": 0.05,
    "bf16": 0.05,
    "int8": 1e-3,
    "fp8": 1e-3,
    "int8-weights": 1e-3,
}
_LARGEST_LOGIT = {"fp32": 5.0}
_LARGEST_LOW_PRECISION_LOGIT = 25.0
# Kernels on other machines round differently.
_GOLDEN_TOLERANCE = 1e-3
LOWEST_TAU: dict[Precision, float] = {
    "fp32": 1.0,
    "fp16": 0.99,
    "bf16": 0.99,
    "int8": 0.95,
    "int8-weights": 0.95,
    "fp8": 0.95,
}
# fp8 and int8 by TensorRT, whose scales are constant, are held to nDCG@10 instead of tau.
MOST_DRIFT = 0.01
# Precisions whose order is also proven on passages with similar scores, and whose scores must not
# depend on the other rows of a batch.
LOW_PRECISIONS: frozenset[Precision] = frozenset({"int8", "int8-weights", "fp8"})
LOWEST_OVERLAP = 0.9
BATCH_TOLERANCE = 1e-5
# Random weights amplify rounding chaotically: for lower precisions the tolerance is this share of
# the reference's standard deviation, and their order means nothing. For bf16 and int8 this checks
# little more than the size of the scores (1B shape, 16 layers: rms 0.25 and 0.7).
RANDOM_SHARE: dict[Precision, float] = {
    "fp16": 0.25,
    "bf16": 1.5,
    "int8": 4.0,
    "int8-weights": 4.0,
    "fp8": 4.0,
}
# If scores spread by fewer tolerances, any graph would pass: the tolerance shrinks with the spread,
# down to the limit of float32.
LEAST_SPREAD, _FINEST = 10, 1e-5
# If all scores are closer than this, their order is of no use.
_FLAT = 0.01
# How many of the best passages are compared: of at least 20 passages 10, of more than 5 five.
TOP_K, FEW_TOP_K = 10, 5

_PACKAGES = (
    "open-rerank",
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxscript",
    "pillow",
    "tokenizers",
    "torch",
    "transformers",
)


@dataclass(frozen=True)
class EngineScores:
    """Logits float64 [passages] per group: each pair alone, with its group, group shuffled."""

    alone: list[Scores]
    together: list[Scores]
    shuffled: list[Scores]


def new_report(engine: str, target: TargetProfile, witness: str, *, random_weights: bool) -> Parity:
    """A parity report without rungs yet, for a comparison with the answers of `witness`."""
    rule: Rule = "ndcg" if target.precision in LOW_PRECISIONS and target.shapes else "trained"
    return Parity(
        engine=engine,
        precision=target.precision,
        rule="random-weights" if random_weights and target.precision != "fp32" else rule,
        versions=package_versions(),
        hardware=machine.describe(),
        witness=witness,
    )


def golden_tolerance(report: Parity) -> float:
    """How far a golden may be from its recorded logit when the artifact is opened elsewhere.

    Half precision differs between machines by about as much as from the reference.
    """
    if report.precision == "fp32":
        share = (report.rungs["logits"].tolerance or 0.0) / LOGIT_TOLERANCE["fp32"]
        return _GOLDEN_TOLERANCE * share
    return max(LOGIT_TOLERANCE[report.precision], 2 * (report.rungs["logits"].max_abs_delta or 0.0))


def check_tokens(report: Parity, reference: Reference, encoder: PairEncoder) -> None:
    """The first rung. Records it in `report` and raises ParityFailed when an id differs."""
    compared = []
    for group, wanted_rows in zip(reference.groups, reference.tokens, strict=True):
        found_rows = encoder.encode(RankRequest(group.query, group.passages, truncate="END")).rows
        labels = map(group.label, range(len(wanted_rows)))
        compared += zip(labels, found_rows, wanted_rows, strict=True)
    compare_tokens(report, compared)


def compare_tokens(report: Parity, compared: Sequence[tuple[str, Encoding, Tokens]]) -> None:
    """Record the first rung over (label, the runtime's tokens, the checkpoint's)."""
    differences = (_token_difference(*one) for one in compared)
    failure = next((found for found in differences if found), None)
    report.rungs["tokens"] = Rung(pairs=len(compared), passed=failure is None)
    if failure:
        raise ParityFailed("tokens", failure)


def check_scores(report: Parity, reference: Reference, ranker: Ranker) -> EngineScores:
    """The second and third rung. Records both in `report` before raising ParityFailed."""
    tolerance = _tolerance(report, reference)
    try:
        scores = _engine_scores(reference, ranker)
    except NonFiniteScore as error:
        pairs = sum(map(len, reference.tokens))
        report.rungs["logits"] = Rung(pairs=pairs, tolerance=tolerance, passed=False)
        raise ParityFailed("logits", str(error)) from error
    orders = zip(reference.groups, reference.logits, scores.together, strict=True)
    raise_failures(
        logits=_check_logits(report, reference, scores, tolerance),
        ranking=check_ranking(report, list(orders), tolerance),
    )
    return scores


def raise_failures(**failures: str | None) -> None:
    """Raise ParityFailed for the first rung, by name, that has a failure."""
    for rung, failure in failures.items():
        if failure:
            raise ParityFailed(rung, failure)


def batch_delta(ways: Sequence[np.ndarray]) -> float:
    """How far outputs computed alone (the first of `ways`) are from those computed with others."""
    return float(max(np.abs(other - ways[0]).max() for other in ways[1:]))


def dependence(report: Parity) -> str | None:
    """The failure if outputs of a low precision depend on their batch, else None.

    Rounding can turn a float32 difference of 1e-7 into a full step of the quantization.
    """
    rung = report.rungs["logits"]
    moved = rung.batch_max_abs_delta or 0.0
    gated = report.precision in LOW_PRECISIONS and report.rule == "trained"
    if not gated or moved <= BATCH_TOLERANCE:
        return None
    report.rungs["logits"] = msgspec.structs.replace(rung, passed=False)
    return (
        f"outputs move by up to {moved:.2g} with the rows beside them, wanted at most "
        f"{BATCH_TOLERANCE:.0e}; a target of this precision must not pad (padding_waste = 0)"
    )


def kendall_tau(
    reference: Scores, found: Scores, gap: float
) -> tuple[int, int, int, tuple[int, int] | None]:
    """Concordant, discordant and tied pairs of `found` [n] where `reference` differs by > `gap`.

    The last value is the discordant pair (better, worse by the reference) of the widest gap.
    """
    better, worse = np.nonzero(reference[:, None] - reference[None, :] > gap)
    direction = np.sign(found[better] - found[worse])
    wrong = np.flatnonzero(direction < 0)
    widest = None
    if len(wrong):
        at = wrong[np.argmax(reference[better[wrong]] - reference[worse[wrong]])]
        widest = int(better[at]), int(worse[at])
    counts = (int((direction == sign).sum()) for sign in (1, -1, 0))
    concordant, discordant, tied = counts
    return concordant, discordant, tied, widest


def package_versions() -> dict[str, str]:
    """Versions of the packages that made an artifact, of those that are installed."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _token_difference(label: str, found: Encoding, wanted: Tokens) -> str | None:
    kinds = [("token id", found.token_ids.tolist(), wanted.token_ids)]
    if wanted.type_ids is not None and found.type_ids is not None:
        kinds.append(("type id", found.type_ids.tolist(), wanted.type_ids))
    for kind, ours, theirs in kinds:
        if ours != theirs:
            shared = [a == b for a, b in zip(ours, theirs, strict=False)]
            at = shared.index(False) if False in shared else len(shared)
            return (
                f"pair {label}: from {kind} {at} the witness is fed {theirs[at : at + 6]} "
                f"({len(theirs)} in all), the runtime reads {ours[at : at + 6]} ({len(ours)} in "
                f"all); the two must be equal. Likeliest cause: "
                f"{diagnose_tokens(found.token_ids.tolist(), wanted)}"
            )
    return None


def _engine_scores(reference: Reference, ranker: Ranker) -> EngineScores:
    scores = EngineScores([], [], [])
    shuffle = np.random.default_rng(0)
    for group in reference.groups:
        order = shuffle.permutation(len(group.passages))
        shuffled = np.empty(len(order))
        shuffled[order] = _rank(ranker, group.query, [group.passages[i] for i in order])
        scores.shuffled.append(shuffled)
        scores.together.append(_rank(ranker, group.query, group.passages))
        alone = [_rank(ranker, group.query, [passage]) for passage in group.passages]
        scores.alone.append(np.concatenate(alone))
    return scores


def _rank(ranker: Ranker, query: str, passages: "list[str] | tuple[str, ...]") -> Scores:
    request = RankRequest(query, passages, truncate="END")
    return ranker.rank(request).logits.astype(np.float64)


def _tolerance(report: Parity, reference: Reference) -> float:
    if report.rule == "random-weights":
        return RANDOM_SHARE[report.precision] * float(np.concatenate(reference.logits).std())
    spread = float(np.concatenate(reference.logits).std())
    return _within_spread(LOGIT_TOLERANCE[report.precision], spread)


def _within_spread(tolerance: float, spread: float) -> float:
    """`tolerance`, lowered for scores with so small a deviation that any graph would pass."""
    return min(tolerance, max(spread / LEAST_SPREAD, _FINEST))


def flatness(scores: Sequence[Scores], what: str) -> str | None:
    """The warning about a reference's `scores` that barely differ, else None; `what` names them."""
    every = np.concatenate(scores)
    lowest, highest = float(every.min()), float(every.max())
    if highest - lowest >= _FLAT:
        return None
    return (
        f"the checkpoint's own {what} barely differ: the {len(every)} of the parity texts are "
        f"between {lowest:.6g} and {highest:.6g}, {highest - lowest:.2g} apart, where others are "
        f"{_FLAT} apart at least; is it trained?"
    )


def _check_logits(
    report: Parity, reference: Reference, scores: EngineScores, tolerance: float
) -> str | None:
    wanted = np.concatenate(reference.logits)
    labels = [g.label(i) for g in reference.groups for i in range(len(g.passages))]
    ways = {
        "alone": np.concatenate(scores.alone),
        "with its group": np.concatenate(scores.together),
        "with its group shuffled": np.concatenate(scores.shuffled),
    }
    deltas = np.abs(np.stack(list(ways.values())) - wanted)
    largest = _LARGEST_LOGIT.get(report.precision, _LARGEST_LOW_PRECISION_LOGIT)
    excess = deltas / np.maximum(1.0, np.abs(wanted) / largest)
    way, pair = np.unravel_index(int(excess.argmax()), excess.shape)
    gated = report.precision == "fp32" or report.rule == "random-weights" or _is_fp16_plan(report)
    passed = not gated or bool(excess[way, pair] <= tolerance)
    report.rungs["logits"] = Rung(
        pairs=len(wanted),
        max_abs_delta=float(deltas.max()),
        rms_delta=float(np.sqrt((deltas**2).mean())),
        reference_std=float(wanted.std()),
        tolerance=tolerance if gated else None,
        batch_max_abs_delta=batch_delta(list(ways.values())),
        passed=passed,
    )
    if passed:
        return dependence(report)
    name, found = list(ways.items())[int(way)]
    return (
        f"pair {labels[int(pair)]}: the checkpoint gives {wanted[pair]:.6f}, {report.engine} "
        f"scoring it {name} gives {found[pair]:.6f}; they differ by {deltas[way, pair]:.2g}, "
        f"tolerance {tolerance:.2g} ({report.rule}, {report.precision}). If the precision is "
        "the cause, export with a target of higher precision"
    )


def _is_fp16_plan(report: Parity) -> bool:
    """An fp16 plan: a compiler chooses its own kernels, so the logit tolerance applies, too."""
    return report.engine == "tensorrt" and report.precision == "fp16"


def check_ranking(
    report: Parity, orders: Sequence[tuple[Group, Scores, Scores]], tolerance: float
) -> str | None:
    """The third rung over (group, the checkpoint's scores, the engine's), float64 [passages] each.

    Reference scores within twice the `tolerance` count as tied. Records the rung and returns what
    failed, if anything did. Where no two differ, there is no order to prove: float32's outputs are
    held to the reference's all the same, others' are not.
    """
    spread = float(np.concatenate([wanted for _, wanted, _ in orders]).std())
    tolerance = _within_spread(tolerance, spread)
    concordant = discordant = tied = 0
    failure = None
    overlaps, gains = [], []
    for group, wanted, found in orders:
        *counts, widest = kendall_tau(wanted, found, 2 * tolerance)
        concordant, discordant, tied = (
            total + count
            for total, count in zip((concordant, discordant, tied), counts, strict=True)
        )
        if len(group.passages) > FEW_TOP_K:
            overlaps.append(_top_k_overlap(wanted, found))
            gains.append(ndcg(wanted, found))
        if widest and failure is None:
            better, worse = widest
            failure = (
                f"the checkpoint puts {group.label(better)} ({wanted[better]:.6f}) above "
                f"{group.label(worse)} ({wanted[worse]:.6f}), {report.engine} gives "
                f"{found[better]:.6f} and {found[worse]:.6f}"
            )
    compared = concordant + discordant + tied
    # tau-b: the reference has no ties left after the gap; ties of the engine shrink its side.
    tau = None
    if compared:
        tau = (concordant - discordant) / np.sqrt(compared * max(1, compared - tied))
    lowest = LOWEST_TAU[report.precision]
    gated = report.rule == "trained"
    unproven = tau is None and report.rungs["logits"].tolerance is None
    overlap = float(np.mean(overlaps))
    kept = report.precision not in LOW_PRECISIONS or overlap >= LOWEST_OVERLAP
    drift = 1.0 - float(np.mean(gains))
    ordered = tau is None or bool(tau >= lowest)
    passed = not gated or (not unproven and ordered and kept)
    if report.rule == "ndcg":
        passed = not unproven and drift <= MOST_DRIFT
    report.rungs["ranking"] = Rung(
        pairs=compared,
        kendall_tau=None if tau is None else float(tau),
        top_k_overlap=overlap,
        tolerance=MOST_DRIFT if report.rule == "ndcg" else lowest if gated else None,
        ndcg_drift=drift if report.precision in LOW_PRECISIONS else None,
        passed=passed,
    )
    if passed:
        return None
    if unproven:
        return (
            f"no two of the checkpoint's own scores differ by more than {2 * tolerance:.2g} "
            f"(deviation {spread:.2g}), so that {report.precision} has no order to keep; export "
            "with cpu-fp32, whose numbers are compared, or train the checkpoint"
        )
    if report.rule == "ndcg":
        return (
            f"nDCG@{TOP_K} by the checkpoint's scores drifts by {drift:.4f}, tolerance "
            f"{MOST_DRIFT}; export with a target of higher precision"
        )
    if not kept:
        return (
            f"of the checkpoint's best passages {overlap:.0%} are still among the best, "
            f"wanted {LOWEST_OVERLAP:.0%}; export with a target of higher precision"
        )
    return (
        f"Kendall's tau is {tau:.4f} over {compared} pairs of passages, tolerance {lowest}; "
        f"{failure or f'{tied} pairs are tied'}"
    )


def ndcg(wanted: Scores, found: Scores) -> float:
    """nDCG@10 of the order of `found`, where a passage's gain is the reference's own score, from 0
    for the group's worst to 1 for its best (Järvelin and Kekäläinen 2002)."""
    gains = wanted - wanted.min()
    gains = gains / gains.max() if gains.max() > 0 else gains + 1.0
    discounts = 1 / np.log2(np.arange(2, min(len(gains), TOP_K) + 2))
    reached, best = (
        float((gains[np.argsort(-by, kind="stable")[: len(discounts)]] * discounts).sum())
        for by in (found, wanted)
    )
    return reached / best


def _top_k_overlap(wanted: Scores, found: Scores) -> float:
    depth = TOP_K if len(wanted) >= 2 * TOP_K else FEW_TOP_K
    best = set(np.argsort(-wanted, kind="stable")[:depth].tolist())
    return len(best & set(np.argsort(-found, kind="stable")[:depth].tolist())) / depth
