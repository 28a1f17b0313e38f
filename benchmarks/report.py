"""The run as Markdown. Pure functions."""

import statistics
from collections.abc import Iterator

from benchmarks.results import (
    Fidelity,
    ModelFacts,
    Point,
    Results,
    Spread,
    percentile,
    rates,
    ratio,
    spread,
)
from benchmarks.tables import number, table

# Use by other processes above this makes a figure doubtful; the report marks it.
_NOISE_CORES = 0.15
_GROWTH = "growth"
_PRECISIONS = ("fp32", "bf16", "int8")


def markdown(results: Results) -> str:
    """The whole report."""
    parts = [_head(results)]
    parts += [_point(results, one) for one in results.points if one.scenario != _GROWTH]
    parts += _growth(results)
    parts += [_ceilings(results), _candidates(results), _notes()]
    return "\n\n".join(part for part in parts if part) + "\n"


def median_and_range(value: Spread, digits: int = 3) -> str:
    """Median, and the range when there is more than one value."""
    middle = number(value.median, digits)
    if value.low == value.high:
        return middle
    return f"{middle} ({number(value.low, digits)}–{number(value.high, digits)})"


def _head(results: Results) -> str:
    facts = ", ".join(f"{name} {value}" for name, value in results.machine.items())
    lines = [
        "# Benchmark",
        "",
        f"{results.began}, commit {results.commit}, options: {results.options or 'none'}. {facts}.",
    ]
    noisy, samples = _noisy(results)
    if noisy:
        lines += [
            "",
            f"Other processes kept more than {_NOISE_CORES} cores busy in {noisy} of {samples} "
            "samples: those figures are unreliable.",
        ]
    lines += [f"\nSkipped: {name}: {reason}" for name, reason in results.skipped.items()]
    return "\n".join(lines)


def _noisy(results: Results) -> tuple[int, int]:
    """The number of disturbed samples, and of all."""
    foreign = [
        sample.foreign_cores
        for point in results.points
        for measured in point.measured.values()
        for sample in measured.samples
    ]
    return sum(cores > _NOISE_CORES for cores in foreign), len(foreign)


def _point(results: Results, point: Point) -> str:
    model = results.models[point.model]
    several = point.clients > 1
    latency = ["p50 ms", "p99 ms", "requests/s"] if several else ["s a request"]
    fidelity = point.scenario == point.model
    head = ["candidate", "precision", "tokens/s", *latency, "of ceiling"]
    if fidelity:
        head += ["max |Δ|", "tau", "top 10", "Cranfield tau", "nDCG@10 (drift)"]
    head += ["start s", "peak GB", "others' cores"]
    rows = [
        [
            _name(results, name),
            results.candidates[name].precision,
            median_and_range(spread(rates(point, name))),
            *_latency(point, name),
            _of_ceiling(results, point, name),
            *(_fidelity(model, name) if fidelity else []),
            *_costs(model, name),
            _noise(point, name),
        ]
        for name in _fastest_first(point)
    ]
    tokens = f"{point.requests} × {point.passages} passages, {point.tokens} tokens"
    title = f"## {point.label}\n\n{model.title}; {tokens}, {_clients(point)} at a time."
    body = table(head, rows)
    unjudged = _unjudged(model) if fidelity else ""
    parts = (title, body, _ratios(results, point), _failures(point), unjudged)
    return "\n\n".join(part for part in parts if part)


def _clients(point: Point) -> str:
    return "1 client" if point.clients == 1 else f"{point.clients} clients"


def _name(results: Results, name: str) -> str:
    return f"**{name}**" if results.candidates[name].ours else name


def _fastest_first(point: Point) -> list[str]:
    found = {n: statistics.median(r) for n in point.measured if (r := rates(point, n))}
    return sorted(found, key=lambda name: -found[name])


def _latency(point: Point, name: str) -> list[str]:
    samples = point.measured[name].samples
    if point.clients == 1:
        return [median_and_range(spread([sample.seconds for sample in samples]))]
    p50 = spread([1e3 * statistics.median(sample.latencies_s) for sample in samples])
    p99 = spread([1e3 * percentile(sample.latencies_s, 0.99) for sample in samples])
    return [
        median_and_range(p50),
        median_and_range(p99),
        median_and_range(spread([point.requests / s.seconds for s in samples])),
    ]


def _of_ceiling(results: Results, point: Point, name: str) -> str:
    """Useful operations per second, as a share of the ceiling of the candidate's precision."""
    ceiling = results.models[point.model].ceilings.get(results.candidates[name].precision)
    if ceiling is None:
        return "–"
    rate = statistics.median(rates(point, name))
    return f"{point.flops / point.tokens * rate / ceiling:.0%}"


def _fidelity(model: ModelFacts, name: str) -> list[str]:
    found = model.fidelity.get(name)
    if found is None:
        return ["–"] * 5
    return [
        f"{found.max_abs_delta:.2g}",
        f"{found.tau:.3f}",
        f"{found.top10:.0%}",
        "–" if found.cranfield_tau is None else f"{found.cranfield_tau:.3f}",
        _ndcg(found),
    ]


def _ndcg(found: Fidelity) -> str:
    if found.ndcg is None or found.ndcg_drift is None:
        return "–"
    return f"{found.ndcg:.4f} ({found.ndcg_drift:+.4f})"


def _costs(model: ModelFacts, name: str) -> list[str]:
    starts, memory = model.start_s.get(name), model.peak_rss_bytes.get(name)
    return [
        number(statistics.median(starts)) if starts else "–",
        f"{memory / 1e9:.2f}" if memory else "–",
    ]


def _noise(point: Point, name: str) -> str:
    worst = max(sample.foreign_cores for sample in point.measured[name].samples)
    return f"{worst:.1f}" if worst > _NOISE_CORES else ""


def _ratios(results: Results, point: Point) -> str:
    """Ours over each peer."""
    ranked = _fastest_first(point)
    ours = [name for name in ranked if results.candidates[name].ours]
    peers = [name for name in ranked if not results.candidates[name].ours]
    rows = []
    for peer in peers:
        found = [ratio(point, mine, peer) for mine in ours]
        rows.append([peer, *("–" if one is None else median_and_range(one) for one in found)])
    if not ours or not rows:
        return ""
    text = "How many times as fast as the peer, median of the repeats (lowest–highest):"
    return f"{text}\n\n{table(['peer', *ours], rows)}"


def _failures(point: Point) -> str:
    """The candidates that were not measured to the end, with the reasons."""
    rows = [[n, m.failure] for n, m in point.measured.items() if m.failure]
    return f"Not measured:\n\n{table(['candidate', 'why'], rows)}" if rows else ""


def _unjudged(model: ModelFacts) -> str:
    """The candidates whose fidelity was not measured completely."""
    rows = [[name, reason] for name, reason in model.fidelity_failures.items()]
    return f"Fidelity not measured:\n\n{table(['candidate', 'why'], rows)}" if rows else ""


def _growth(results: Results) -> Iterator[str]:
    """One table for each model and axis: a row per candidate, a column per value."""
    series: dict[tuple[str, str], list[Point]] = {}
    for point in results.points:
        if point.scenario == _GROWTH:
            series.setdefault((point.model, point.axis), []).append(point)
    for (model, axis), points in series.items():
        names = list(dict.fromkeys(name for point in points for name in point.measured))
        rows = [
            [_name(results, name), *(_growth_cell(point, name) for point in points)]
            for name in names
        ]
        reasons = sorted(
            {(n, m.failure) for p in points for n, m in p.measured.items() if m.failure}
        )
        head = ["tokens/s", *(f"{point.value} {axis}" for point in points)]
        parts = [f"## {model}: growth in {axis}", table(head, rows)]
        if reasons:
            parts.append("Not measured: " + "; ".join(f"{n}: {why}" for n, why in reasons) + ".")
        yield "\n\n".join(parts)


def _growth_cell(point: Point, name: str) -> str:
    found = rates(point, name)
    return median_and_range(spread(found)) if found else "–"


def _ceilings(results: Results) -> str:
    rows = [
        [
            name,
            *(
                f"{facts.ceilings[p] / 1e9:.0f}" if p in facts.ceilings else "–"
                for p in _PRECISIONS
            ),
        ]
        for name, facts in results.models.items()
    ]
    head = ["model", *(f"{precision} GFLOP/s" for precision in _PRECISIONS)]
    return f"## Products of matrices on this machine\n\n{table(head, rows)}" if rows else ""


def _candidates(results: Results) -> str:
    rows = [
        [_name(results, name), facts.version, facts.precision, facts.note]
        for name, facts in results.candidates.items()
    ]
    return "## Candidates\n\n" + table(["candidate", "version", "precision", "setting"], rows)


def _notes() -> str:
    return (
        "Figures are medians (lowest–highest). Candidates take turns at the same texts, each in a "
        "process of its own, the others stopped meanwhile. Tokens are real ones, padding is not "
        "counted. The ceiling is PyTorch's product of 512 rows in the model's shapes and the "
        "candidate's precision; an engine with faster kernels can exceed it. Fidelity is measured "
        "against PyTorch in fp32, one row a call; tau over pairs that this tells apart. Others' "
        "cores: how many other processes kept busy in the worst repeat; blank below 0.15. Peak "
        "memory is that of the whole run, long texts included."
    )
