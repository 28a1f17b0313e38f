"""The scenarios: loads, models and candidates."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice
from typing import get_args

from benchmarks import fidelity
from benchmarks.artifacts import PLAIN_INT8, prepare_graphs
from benchmarks.ceiling import measure_ceilings
from benchmarks.environments import PeerMissing
from benchmarks.measure import Load, alternate, refuse_slow
from benchmarks.models import MODELS, BenchModel, flops, matrix_shapes, prepare
from benchmarks.progress import print_line, stage
from benchmarks.results import ModelFacts, Point, Results, best
from benchmarks.roster import BY_NAME, REFERENCE, Candidate, Precision
from benchmarks.sessions import CandidateFailed, Pool, refusal
from benchmarks.texts import QUERY, TextMaker, Texts, mixed_lengths

# Scenarios with a model of their own, and those that run on the small models.
MAIN = ("embedded", "minilm", "1b")
SHARED = ("clients", "hundred", "growth")
SCENARIOS = (*MAIN, *SHARED)
SMALL_MODELS = ("embedded", "minilm")
_ALWAYS = "torch-service"


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
        if time.monotonic() > self.deadline:
            self.results.skipped[model.name] = "the time limit was reached"
            return
        try:
            prepare(model)
        except PeerMissing as missing:
            self.results.skipped[model.name] = str(missing)
            return
        wanted = {c.graph for c in self.candidates if c.graph and not refusal(c, model)}
        if PLAIN_INT8 in wanted:
            wanted.add("cpu-fp32")  # the plain int8 graph is made from it
        names = sorted(wanted, key=lambda name: (name != "cpu-fp32", name))
        pool = Pool(model, prepare_graphs(model, names), self.deadline)
        facts = ModelFacts(model.title, start_s=pool.start_s, peak_rss_bytes=pool.peak_rss_bytes)
        self.results.models[model.name] = facts
        with stage(f"{model.name}: products of matrices"):
            try:
                facts.ceilings = measure_ceilings(matrix_shapes(model.config()))
            except PeerMissing as missing:
                print_line(f"no ceilings: {missing}")
        try:
            self._run(pool, facts)
        finally:
            pool.close()
            self.save()

    def _run(self, pool: Pool, facts: ModelFacts) -> None:
        model = pool.model
        finalists = list(self.candidates)
        if model.name in self.scenarios:
            finalists = self._main(pool, facts)
            self.save()
        if model.large:
            return
        if "clients" in self.scenarios:
            self._clients(pool, self.sizes.clients, self.sizes.requests)
            self.save()
        if "hundred" in self.scenarios:
            texts = self._make(model, mixed_lengths(self.sizes.many, self.sizes.longest))
            self._one_request(pool, "hundred", texts, finalists, self.sizes.repeats)
            self.save()
        if "growth" in self.scenarios:
            self._grow(pool, finalists)

    def _main(self, pool: Pool, facts: ModelFacts) -> list[Candidate]:
        """The passages of the main scenario, with fidelity; the finalists."""
        model, sizes = pool.model, self.sizes
        texts = self._make(model, mixed_lengths(sizes.passages, sizes.longest))
        if not model.large:
            point = self._one_request(pool, model.name, texts, self.candidates, sizes.repeats)
            self._judge(pool, facts, point, texts)
            return self._best(point)
        few = self._make(model, mixed_lengths(sizes.first_passages, sizes.longest))
        first = self._one_request(pool, model.name, few, self.candidates, 1)
        self._judge(pool, facts, first, few)
        self.save()
        finalists = self._best(first)
        last = self._one_request(pool, model.name, texts, finalists, sizes.repeats)
        self._judge(pool, facts, last, texts)
        return finalists

    def _best(self, point: Point) -> list[Candidate]:
        """Ours over HTTP, the best peer of each precision and, unless it takes minutes, the simple
        service; in the order of the table."""
        names = set() if MODELS[point.model].large else {_ALWAYS}
        for precision in get_args(Precision):
            peers = [c.name for c in self.candidates if not c.ours and c.precision == precision]
            names.update(best(point, peers, 1))
        return [c for c in self.candidates if (c.ours and c.serves) or c.name in names]

    def _one_request(
        self, pool: Pool, scenario: str, texts: Texts, who: Sequence[Candidate], repeats: int
    ) -> Point:
        count = len(texts.passages)
        label = f"{pool.model.name}: 1 query × {count} passages"
        load = self._together(texts)
        point = self._point(pool.model, scenario, label, texts, load)
        alternate(pool, who, load, point, repeats)
        return point

    def _clients(self, pool: Pool, clients: int, requests: int) -> None:
        texts = self._make(pool.model, mixed_lengths(self.sizes.passages, self.sizes.longest))
        load, sent = self._one_passage_each(texts, clients, requests)
        label = f"{pool.model.name}: {clients} clients, {requests} requests of one passage"
        point = self._point(pool.model, "clients", label, sent, load)
        alternate(pool, self.candidates, load, point, self.sizes.repeats)

    def _grow(self, pool: Pool, who: Sequence[Candidate]) -> None:
        before: Point | None = None
        for axis, value, texts, load in self._growing(pool.model):
            label = f"{pool.model.name}: {value} {axis}"
            point = self._point(pool.model, "growth", label, texts, load, axis, value)
            if before is not None and before.axis == axis:
                refuse_slow(who, point, before)
            alternate(pool, who, load, point, self.sizes.growth_repeats)
            before = point
            self.save()

    def _growing(self, model: BenchModel) -> Iterator[tuple[str, int, Texts, Load]]:
        """Axis, value and load of each point: one quantity grows, the others are constant."""
        sizes = self.sizes
        for count in sizes.grown_passages:
            texts = self._make(model, mixed_lengths(count, sizes.longest))
            yield "passages", count, texts, self._together(texts)
        for length in sizes.grown_lengths:
            if length <= model.max_tokens:
                texts = self._make(model, [length] * max(2, sizes.length_tokens // length))
                yield "tokens", length, texts, self._together(texts)
        mixed = self._make(model, mixed_lengths(sizes.passages, sizes.longest))
        for clients in sizes.grown_clients:
            requests = max(sizes.passages, 2 * clients)
            load, texts = self._one_passage_each(mixed, clients, requests)
            yield "clients", clients, texts, load

    def _point(
        self,
        model: BenchModel,
        scenario: str,
        label: str,
        texts: Texts,
        load: Load,
        axis: str = "",
        value: int = 0,
    ) -> Point:
        config = model.config()
        point = Point(
            scenario=scenario,
            model=model.name,
            label=label,
            passages=max(map(len, load.requests)),
            requests=len(load.requests),
            clients=load.clients,
            tokens=texts.tokens,
            flops=sum(flops(config, tokens) for tokens in texts.token_counts),
            axis=axis,
            value=value,
        )
        self.results.points.append(point)
        return point

    def _make(self, model: BenchModel, lengths: Sequence[int]) -> Texts:
        if model.name not in self._texts:
            file = model.checkpoint / "tokenizer.json"
            self._texts[model.name] = TextMaker(file, model.template, model.max_tokens)
        return self._texts[model.name].make(lengths)

    def _together(self, texts: Texts) -> Load:
        """All passages in one request."""
        return Load(QUERY, (tuple(texts.passages),), least_s=self.sizes.least_turn_s)

    def _one_passage_each(self, texts: Texts, clients: int, requests: int) -> tuple[Load, Texts]:
        """`requests` requests of one passage, cycling through the texts, and all their texts."""
        passages = list(islice(cycle(texts.passages), requests))
        counts = list(islice(cycle(texts.token_counts), requests))
        apart = tuple((one,) for one in passages)
        load = Load(QUERY, apart, clients, self.sizes.least_turn_s)
        return load, Texts(passages, counts)

    def _judge(self, pool: Pool, facts: ModelFacts, point: Point, texts: Texts) -> None:
        """Fidelity of all candidates that scored `texts`, and on the judged queries, if any."""
        count = min(pool.model.queries, self.sizes.queries)
        judged = fidelity.judged_queries(fidelity.CRANFIELD, count)
        asked = [(QUERY, texts.passages), *((one.query, one.passages) for one in judged)]
        scored = [BY_NAME[name] for name, measured in point.measured.items() if measured.samples]
        with stage(f"{pool.model.name}: fidelity, {len(judged)} queries of Cranfield"):
            try:
                reference = _scores(pool, BY_NAME[REFERENCE], asked)
            except (PeerMissing, CandidateFailed) as error:
                for candidate in scored:
                    facts.fidelity_failures[candidate.name] = f"no reference: {error}"
                return
            for candidate in scored:
                found = point.measured[candidate.name].samples[0].logits
                figures = fidelity.compare(reference[0], found)
                facts.fidelity[candidate.name] = figures
                if not judged:
                    continue
                try:
                    more = _scores(pool, candidate, asked[1:])
                except (PeerMissing, CandidateFailed) as error:
                    facts.fidelity_failures[candidate.name] = str(error)
                    print_line(f"{candidate.name}: {error}")
                else:
                    fidelity.add_collection(figures, judged, reference[1:], more)


def _scores(
    pool: Pool, candidate: Candidate, asked: Sequence[tuple[str, Sequence[str]]]
) -> list[list[float]]:
    """The logits of each query's passages. Raises PeerMissing or CandidateFailed."""
    with pool.turn(candidate) as (session, _):
        client = session.client()
        try:
            return [client.score(query, list(passages)) for query, passages in asked]
        finally:
            client.close()
