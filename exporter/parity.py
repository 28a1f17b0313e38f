"""The rungs of the parity ladder: does the artifact give the checkpoint's tokens, outputs and
order?

exporter.proof climbs them, on real pairs and texts of uneven length (exporter.parity_texts):

tokens   the runtime's encoding against the checkpoint's own tokenizer, id by id
logits   float32 PyTorch, one unpadded row a call, against the engine that will serve, through the
         runtime: each row alone, with its group, and with its group shuffled. A reranker's logits,
         an embedder's components
ranking  Kendall's tau-b over pairs of passages whose reference scores differ by more than twice
         the tolerance (ties and duplicates must not turn on 1e-7), and top-k overlap. A reranker's
         scores are its logits, an embedder's the cosines to the query
"""

import importlib.metadata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from exporter import tolerances
from exporter.answers import Outputs, Scores, Tokens
from exporter.diagnosis import diagnose_tokens
from exporter.errors import ParityFailed
from exporter.parity_texts import Group
from exporter.report import Parity, Rule, Rung
from runtime import machine
from runtime.profile import TargetProfile
from runtime.text import Encoding

# The ways in which an engine computes every row.
WAYS = ("alone", "with its group", "with its group shuffled")
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
class Judging:
    """How outputs float64 [rows, components] are judged: differences by their share of `scale`,
    which broadcasts to the outputs; if `gated`, none may be above `tolerance`. Scores that differ
    by less than twice `gap` count as tied."""

    tolerance: float
    scale: Outputs
    gated: bool
    gap: float


@dataclass(frozen=True)
class Order:
    """How many `pairs` of passages the reference orders, how many of them the engine leaves `tied`,
    and Kendall's tau-b, None without pairs. `reversed` is the widest pair, of the first group with
    any, that the engine orders otherwise: group, better, worse."""

    pairs: int
    tied: int
    tau: float | None
    reversed: tuple[int, int, int] | None


def new_report(engine: str, target: TargetProfile, witness: str, *, random_weights: bool) -> Parity:
    """A parity report without rungs yet, for a comparison with the answers of `witness`."""
    rule: Rule = (
        "ndcg" if target.precision in tolerances.LOW_PRECISIONS and target.shapes else "trained"
    )
    return Parity(
        engine=engine,
        precision=target.precision,
        rule="random-weights" if random_weights and target.precision != "fp32" else rule,
        versions=package_versions(),
        hardware=machine.describe(),
        witness=witness,
    )


def package_versions() -> dict[str, str]:
    """Versions of the packages that made an artifact, of those that are installed."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def record(report: Parity, name: str, rung: Rung, failure: str | None) -> None:
    """Record a rung in `report`. Raises ParityFailed if there is a `failure`."""
    report.rungs[name] = rung
    raise_failures(**{name: failure})


def raise_failures(**failures: str | None) -> None:
    """Raise ParityFailed for the first rung, by name, that has a failure."""
    for rung, failure in failures.items():
        if failure:
            raise ParityFailed(rung, failure)


def check_tokens(report: Parity, compared: Iterable[tuple[str, Encoding, Tokens]]) -> None:
    """The first rung over (label, the runtime's tokens, the checkpoint's). Records it in `report`
    and raises ParityFailed when an id differs."""
    differences = [_token_difference(*one) for one in compared]
    failure = next(filter(None, differences), None)
    record(report, "tokens", Rung(pairs=len(differences), passed=failure is None), failure)


def _token_difference(label: str, found: Encoding, wanted: Tokens) -> str | None:
    ids = found.token_ids.tolist()
    differs = first_difference(ids, wanted.token_ids, "token id")
    if not differs and wanted.type_ids is not None and found.type_ids is not None:
        differs = first_difference(found.type_ids.tolist(), wanted.type_ids, "type id")
    if not differs:
        return None
    return (
        f"pair {label}: {differs}; the two must be equal. Likeliest cause: "
        f"{diagnose_tokens(ids, wanted)}"
    )


def first_difference(ours: list[int], theirs: list[int], what: str) -> str | None:
    """The first place where the runtime's ids differ from the witness's; None if they are equal."""
    if ours == theirs:
        return None
    alike = [a == b for a, b in zip(ours, theirs, strict=False)]
    at = alike.index(False) if False in alike else len(alike)
    return (
        f"from {what} {at} the witness is fed {theirs[at : at + 6]} ({len(theirs)} in all), the "
        f"runtime reads {ours[at : at + 6]} ({len(ours)} in all)"
    )


def computed_in_ways(
    rows: int, compute: Callable[[Sequence[int]], Outputs], shuffle: np.random.Generator
) -> list[Outputs]:
    """Outputs float64 [rows, components] of a group of `rows`, in the order of WAYS; `compute`
    gives those of some rows in one request."""
    order = shuffle.permutation(rows).tolist()
    found = compute(order)
    shuffled = np.empty_like(found)
    shuffled[order] = found
    together = compute(range(rows))
    return [np.concatenate([compute([row]) for row in range(rows)]), together, shuffled]


def judge_values(
    wanted: Outputs, ways: Sequence[Outputs], judging: Judging
) -> tuple[Rung, tuple[int, int, int]]:
    """The second rung's figures over what is `wanted` and what each way gave, float64 [rows,
    components] each, and the way, row and component that is furthest off for its scale."""
    deltas = np.abs(np.stack(ways) - wanted)
    excess = deltas / judging.scale
    way, row, component = map(int, np.unravel_index(int(excess.argmax()), excess.shape))
    rung = Rung(
        pairs=len(wanted),
        max_abs_delta=float(deltas.max()),
        rms_delta=float(np.sqrt((deltas**2).mean())),
        reference_std=spread_of(wanted),
        tolerance=judging.tolerance if judging.gated else None,
        batch_max_abs_delta=batch_delta(ways),
        passed=not judging.gated or bool(excess[way, row, component] <= judging.tolerance),
    )
    return rung, (way, row, component)


def spread_of(outputs: Outputs) -> float:
    """The deviation of components between rows, without what all rows share."""
    return float(np.sqrt(outputs.var(axis=0).mean()))


def batch_delta(ways: Sequence[Outputs]) -> float:
    """How far outputs computed alone (the first of `ways`) are from those computed with others."""
    return float(max(np.abs(other - ways[0]).max() for other in ways[1:]))


def dependence(report: Parity) -> str | None:
    """The failure if outputs of a low precision depend on their batch, else None.

    Rounding can turn a float32 difference of 1e-7 into a full step of the quantization.
    """
    rung = report.rungs["logits"]
    moved = rung.batch_max_abs_delta or 0.0
    gated = report.precision in tolerances.LOW_PRECISIONS and report.rule == "trained"
    if not gated or moved <= tolerances.BATCH:
        return None
    report.rungs["logits"] = msgspec.structs.replace(rung, passed=False)
    return (
        f"outputs move by up to {moved:.2g} with the rows beside them, wanted at most "
        f"{tolerances.BATCH:.0e}; a target of this precision must not pad (padding_waste = 0)"
    )


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


def compare_order(wanted: Sequence[Scores], found: Sequence[Scores], gap: float) -> Order:
    """The order of each group's passages by the engine's scores, float64 [passages] each, against
    the reference's; those within `gap` by the reference have no order."""
    concordant = discordant = tied = 0
    first = None
    for number, scores in enumerate(zip(wanted, found, strict=True)):
        more, fewer, equal, widest = kendall_tau(*scores, gap)
        concordant, discordant, tied = concordant + more, discordant + fewer, tied + equal
        if widest and first is None:
            first = number, *widest
    pairs = concordant + discordant + tied
    # tau-b: the reference has no ties left after the gap; ties of the engine shrink its side.
    tau = None
    if pairs:
        tau = float((concordant - discordant) / np.sqrt(pairs * max(1, pairs - tied)))
    return Order(pairs, tied, tau, first)


def check_ranking(
    report: Parity, orders: Sequence[tuple[Group, Scores, Scores]], tolerance: float
) -> str | None:
    """The third rung over (group, the checkpoint's scores, the engine's), float64 [passages] each.

    Reference scores within twice the `tolerance` count as tied. Records the rung and returns what
    failed, if anything did. Where no two differ, there is no order to prove: float32's outputs are
    held to the reference's all the same, others' are not.
    """
    groups, wanted, found = zip(*orders, strict=True)
    spread = float(np.concatenate(wanted).std())
    tolerance = tolerances.within_spread(tolerance, spread)
    order = compare_order(wanted, found, 2 * tolerance)
    many = [(w, f) for w, f in zip(wanted, found, strict=True) if len(w) > FEW_TOP_K]
    overlap = float(np.mean([_top_k_overlap(*scores) for scores in many]))
    drift = 1.0 - float(np.mean([ndcg(*scores) for scores in many]))
    lowest = tolerances.TOLERANCES[report.precision].tau
    gated = report.rule == "trained"
    unproven = order.tau is None and report.rungs["logits"].tolerance is None
    kept = report.precision not in tolerances.LOW_PRECISIONS or overlap >= tolerances.LOWEST_OVERLAP
    ordered = order.tau is None or order.tau >= lowest
    passed = not gated or (not unproven and ordered and kept)
    if report.rule == "ndcg":
        passed = not unproven and drift <= tolerances.MOST_DRIFT
    report.rungs["ranking"] = Rung(
        pairs=order.pairs,
        kendall_tau=order.tau,
        top_k_overlap=overlap,
        tolerance=tolerances.MOST_DRIFT if report.rule == "ndcg" else lowest if gated else None,
        ndcg_drift=drift if report.precision in tolerances.LOW_PRECISIONS else None,
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
            f"{tolerances.MOST_DRIFT}; export with a target of higher precision"
        )
    if not kept:
        return (
            f"of the checkpoint's best passages {overlap:.0%} are still among the best, "
            f"wanted {tolerances.LOWEST_OVERLAP:.0%}; export with a target of higher precision"
        )
    failure = f"{order.tied} pairs are tied"
    if order.reversed is not None:
        number, better, worse = order.reversed
        group, theirs, ours = groups[number], wanted[number], found[number]
        failure = (
            f"the checkpoint puts {group.label(better)} ({theirs[better]:.6f}) above "
            f"{group.label(worse)} ({theirs[worse]:.6f}), {report.engine} gives "
            f"{ours[better]:.6f} and {ours[worse]:.6f}"
        )
    return (
        f"Kendall's tau is {order.tau:.4f} over {order.pairs} pairs of passages, tolerance "
        f"{lowest}; {failure}"
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
