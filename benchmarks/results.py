"""The results of a run, as in results.json."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Sample:
    """One repeat of a load: mean `seconds` of the load, `latencies_s` of each request, the `logits`
    of all pairs in order, and the cores that other processes kept busy meanwhile."""

    seconds: float
    latencies_s: list[float]
    logits: list[float]
    foreign_cores: float


@dataclass
class Measured:
    """The samples of one candidate, or the reason why there are none (or no more)."""

    samples: list[Sample] = field(default_factory=list)
    failure: str = ""


@dataclass
class Point:
    """One load: `passages` a request, `tokens` of all requests, `clients` at a time.

    `flops` are the operations of all its real tokens; `axis` and `value` place it in a series;
    `measured` is by candidate, in the order of the table.
    """

    scenario: str
    model: str
    label: str
    passages: int
    requests: int
    clients: int
    tokens: int
    flops: float
    axis: str = ""
    value: int = 0
    measured: dict[str, Measured] = field(default_factory=dict)


@dataclass
class Fidelity:
    """The difference of a candidate's scores from PyTorch's in fp32, one row a call.

    `max_abs_delta`, `tau` (Kendall's tau-b) and `top10` (share of the reference's first ten) over
    `pairs` passages of the bench; `cranfield_tau`, `ndcg` and `ndcg_drift` (nDCG@10, less the
    reference's) over BM25's candidates for some queries of Cranfield.
    """

    pairs: int
    max_abs_delta: float
    reference_std: float
    tau: float
    top10: float
    cranfield_tau: float | None = None
    ndcg: float | None = None
    ndcg_drift: float | None = None


@dataclass
class ModelFacts:
    """Facts about a model: its `title`; `ceilings` of the machine's matrix products in its shapes,
    FLOP/s by precision; and by candidate start times, peak memory and fidelity."""

    title: str
    ceilings: dict[str, float] = field(default_factory=dict)
    start_s: dict[str, list[float]] = field(default_factory=dict)
    peak_rss_bytes: dict[str, int] = field(default_factory=dict)
    fidelity: dict[str, Fidelity] = field(default_factory=dict)
    fidelity_failures: dict[str, str] = field(default_factory=dict)


@dataclass
class CandidateFacts:
    """A row of the table of candidates; `ours` marks this project's."""

    version: str
    precision: str
    ours: bool
    serves: bool
    note: str


@dataclass
class Results:
    """A whole run."""

    began: str
    commit: str
    options: str
    machine: dict[str, str]
    candidates: dict[str, CandidateFacts]
    models: dict[str, ModelFacts] = field(default_factory=dict)
    points: list[Point] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Spread:
    """Median, smallest and largest of some repeats."""

    median: float
    low: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    """The spread of at least one value."""
    return Spread(statistics.median(values), min(values), max(values))


def rates(point: Point, name: str) -> list[float]:
    """Real tokens a second of a candidate, by repeat."""
    measured = point.measured.get(name)
    return [point.tokens / sample.seconds for sample in measured.samples] if measured else []


def ratio(point: Point, ours: str, peer: str) -> Spread | None:
    """The speed of `ours` relative to `peer`, repeat by repeat; None when one has no samples.

    Both ran in each repeat, so that disturbances affected both.
    """
    pairs = list(zip(rates(point, ours), rates(point, peer), strict=False))
    return spread([mine / theirs for mine, theirs in pairs]) if pairs else None


def best(point: Point, candidates: Sequence[str], count: int) -> list[str]:
    """The `count` fastest of the named candidates, fastest first."""
    ranked = [(statistics.median(found), n) for n in candidates if (found := rates(point, n))]
    return [name for _, name in sorted(ranked, reverse=True)[:count]]


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
