"""The scenarios: loads, models and candidates."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import cycle, islice
from typing import get_args

from benchmarks import fidelity
from benchmarks.artifacts import prepare_graphs, with_sources
from benchmarks.ceiling import measure_ceilings
from benchmarks.environments import PeerMissing
from benchmarks.measure import Load, alternate, refuse_slow
from benchmarks.models import MODELS, BenchModel, flops, matrix_shapes, prepare
from benchmarks.progress import print_line, stage
from benchmarks.results import ModelFacts, Point, Results, best
from benchmarks.roster import BY_NAME, REFERENCE, Candidate, Precision
from benchmarks.sessions import CandidateFailed, Client, Pool, refusal
from benchmarks.texts import QUERY, TextMaker, Texts, mixed_lengths

# Scenarios with a model of their own, and those that run on the small models.
MAIN = ("embedded", "minilm", "1b", "qwen3")
SHARED = ("clients", "hundred", "growth")
SCENARIOS = (*MAIN, *SHARED)
SMALL_MODELS = ("embedded", "minilm")
_ALWAYS = "torch-service"
# Tokens between the shortest pair and the longest, at least.
_ROOM = 64


@dataclass(frozen=True)
class Sizes:
    """The amounts of everything; the defaults are the whole bench."""

    passages: int = 40
    first_passages: int = 8  # at 1B, where all candidates run once before the finalists
    longest: int = 512
    repeats: int = 3
    growth_repeats: int = 2
    clients: int = 16
    requests: int = 160
    many: int = 100
    grown_passages: tuple[int, ...] = (1, 8, 64, 512)
    grown_lengths: tuple[int, ...] = (32, 128, 512, 2048, 8192)
    grown_clients: tuple[int, ...] = (1, 4, 16, 64)
    length_tokens: int = 1024
    queries: int = 1_000_000
    least_turn_s: float = 1.0


QUICK = Sizes(
    passages=6,
    first_passages=2,
    longest=96,
    repeats=2,
    growth_repeats=1,
    clients=4,
    requests=12,
    many=12,
    grown_passages=(1, 8),
    grown_lengths=(32, 128),
    grown_clients=(1, 4),
    length_tokens=128,
    queries=1,
    least_turn_s=0.0,
)


@dataclass
class Bench:
    """One run: its options and its results.

    No turn starts after `deadline`, in seconds of time.monotonic().
    """

    candidates: Sequence[Candidate]
    scenarios: Sequence[str]
    sizes: Sizes
    results: Results
    save: Callable[[], None]
    deadline: float
    _texts: dict[str, TextMaker] = field(default_factory=dict)

    def run_model(self, model: BenchModel) -> None:
        """Run all chosen scenarios of one model."""
        try:
            if time.monotonic() > self.deadline:
                raise PeerMissing("the time limit was reached")
            prepare(model)
        except PeerMissing as missing:
            self.results.skipped[model.name] = str(missing)
            return
        wanted = {c.graph for c in self.candidates if c.graph and not refusal(c, model)}
        graphs = prepare_graphs(model, with_sources(wanted), self.deadline)
        pool = Pool(model, graphs, self.deadline)
        facts = ModelFacts(model.title, start_s=pool.start_s, peak_rss_bytes=pool.peak_rss_bytes)
        self.results.models[model.name] = facts
        with stage(f"{model.name}: products of matrices"):
            try:
                facts.ceilings = measure_ceilings(matrix_shapes(model.config()))
            except PeerMissing as missing:
                print_line(f"no ceilings: {missing}")
        with closing(pool):
            self._run(pool, facts)

    def _run(self, pool: Pool, facts: ModelFacts) -> None:
        model, sizes = pool.model, self.sizes
        finalists = list(self.candidates)
        if model.name in self.scenarios:
            finalists = self._main(pool, facts)
        if model.large:
            return
        if "clients" in self.scenarios:
            label = f"{sizes.clients} clients, {sizes.requests} requests of one passage"
            load = self._apart(model, sizes.clients, sizes.requests)
            self._measure(pool, "clients", label, load, self.candidates, sizes.repeats)
        if "hundred" in self.scenarios:
            load = self._together(self._mixed(model, sizes.many))
            self._measure(pool, "hundred", _one_query(load), load, finalists, sizes.repeats)
        if "growth" in self.scenarios:
            self._grow(pool, finalists)

    def _main(self, pool: Pool, facts: ModelFacts) -> list[Candidate]:
        """The passages of the main scenario, with fidelity; the finalists. At 1B all candidates
        score a few passages once, and only the finalists score all."""
        model, sizes = pool.model, self.sizes

        def measured(passages: int, who: Sequence[Candidate], repeats: int) -> Point:
            load = self._together(self._mixed(model, passages))
            point = self._measure(pool, model.name, _one_query(load), load, who, repeats)
            self._judge(pool, facts, point, load.requests[0])
            self.save()
            return point

        if not model.large:
            return self._best(measured(sizes.passages, self.candidates, sizes.repeats))
        finalists = self._best(measured(sizes.first_passages, self.candidates, 1))
        measured(sizes.passages, finalists, sizes.repeats)
        return finalists

    def _best(self, point: Point) -> list[Candidate]:
        """Ours over HTTP, the best peer of each precision and, unless it takes minutes, the simple
        service; in the order of the table."""
        names = set() if MODELS[point.model].large else {_ALWAYS}
        for precision in get_args(Precision):
            peers = [c.name for c in self.candidates if not c.ours and c.precision == precision]
            names.update(best(point, peers, 1))
        return [c for c in self.candidates if (c.ours and c.serves) or c.name in names]

    def _grow(self, pool: Pool, who: Sequence[Candidate]) -> None:
        before: Point | None = None
        for axis, value, load in self._growing(pool.model):
            repeats, grown = self.sizes.growth_repeats, (axis, value)
            before = self._measure(
                pool, "growth", f"{value} {axis}", load, who, repeats, grown, before
            )

    def _growing(self, model: BenchModel) -> Iterator[tuple[str, int, Load]]:
        """Axis, value and load of each point: one quantity grows, the others are constant."""
        sizes = self.sizes
        for count in sizes.grown_passages:
            yield "passages", count, self._together(self._mixed(model, count))
        for length in sizes.grown_lengths:
            if length <= model.max_tokens:
                texts = self._make(model, [length] * max(2, sizes.length_tokens // length))
                yield "tokens", length, self._together(texts)
        for clients in sizes.grown_clients:
            requests = max(sizes.passages, 2 * clients)
            yield "clients", clients, self._apart(model, clients, requests)

    def _measure(
        self,
        pool: Pool,
        scenario: str,
        label: str,
        load: Load,
        who: Sequence[Candidate],
        repeats: int,
        grown: tuple[str, int] = ("", 0),
        before: Point | None = None,
    ) -> Point:
        """Measure one point; in a series without those that `before` shows to be too slow."""
        config = pool.model.config()
        point = Point(
            scenario=scenario,
            model=pool.model.name,
            label=f"{pool.model.name}: {label}",
            passages=max(map(len, load.requests)),
            requests=len(load.requests),
            clients=load.clients,
            tokens=sum(load.token_counts),
            flops=sum(flops(config, tokens) for tokens in load.token_counts),
            axis=grown[0],
            value=grown[1],
        )
        self.results.points.append(point)
        if before is not None and before.axis == point.axis:
            refuse_slow(who, point, before)
        alternate(pool, who, load, point, repeats)
        self.save()
        return point

    def _make(self, model: BenchModel, lengths: Sequence[int]) -> Texts:
        if model.name not in self._texts:
            file = model.checkpoint / "tokenizer.json"
            self._texts[model.name] = TextMaker(file, model.template, model.max_tokens)
        return self._texts[model.name].make(lengths)

    def _mixed(self, model: BenchModel, passages: int) -> Texts:
        # A quick run's texts are shorter than the prompt of some models.
        longest = max(self.sizes.longest, model.shortest + _ROOM)
        return self._make(model, mixed_lengths(passages, longest, model.shortest))

    def _together(self, texts: Texts) -> Load:
        """All passages in one request."""
        counts = tuple(texts.token_counts)
        return Load(QUERY, (tuple(texts.passages),), counts, least_s=self.sizes.least_turn_s)

    def _apart(self, model: BenchModel, clients: int, requests: int) -> Load:
        """`requests` requests of one passage, cycling through those of the main scenario."""
        texts = self._mixed(model, self.sizes.passages)
        passages = tuple((one,) for one in islice(cycle(texts.passages), requests))
        counts = tuple(islice(cycle(texts.token_counts), requests))
        return Load(QUERY, passages, counts, clients, self.sizes.least_turn_s)

    def _judge(self, pool: Pool, facts: ModelFacts, point: Point, passages: Sequence[str]) -> None:
        """Fidelity of all candidates that scored `passages`, and on the judged queries, if any."""
        count = min(pool.model.queries, self.sizes.queries)
        judged = fidelity.judged_queries(fidelity.CRANFIELD, count)
        asked = [(QUERY, passages), *((one.query, one.passages) for one in judged)]
        scored = {
            name: one.samples[0].logits for name, one in point.measured.items() if one.samples
        }
        with stage(f"{pool.model.name}: fidelity, {len(judged)} queries of Cranfield"):
            try:
                reference = _scores(pool, REFERENCE, asked)
            except (PeerMissing, CandidateFailed) as error:
                facts.fidelity_failures |= dict.fromkeys(scored, f"no reference: {error}")
                return
            for name, logits in scored.items():
                facts.fidelity[name] = fidelity.compare(reference[0], logits)
                if not judged:
                    continue
                try:
                    more = _scores(pool, name, asked[1:])
                except (PeerMissing, CandidateFailed) as error:
                    facts.fidelity_failures[name] = str(error)
                    print_line(f"{name}: {error}")
                else:
                    fidelity.add_collection(facts.fidelity[name], judged, reference[1:], more)


def _one_query(load: Load) -> str:
    return f"1 query × {len(load.requests[0])} passages"


def _scores(pool: Pool, name: str, asked: Sequence[tuple[str, Sequence[str]]]) -> list[list[float]]:
    """The logits of each query's passages. Raises PeerMissing or CandidateFailed."""
    with pool.turn(BY_NAME[name]) as (session, _), closing(Client(session)) as client:
        return [client.score(query, list(passages)) for query, passages in asked]
