"""The run as Markdown. Pure functions."""

import statistics
from collections.abc import Iterator, Mapping, Sequence

from benchmarks.results import (
    Fidelity,
    ModelFacts,
    Point,
    Results,
    Sample,
    best,
    percentile,
    rates,
    ratio,
    spread,
)
from benchmarks.tables import median_and_range, number, table
from benchmarks.verdict import verdict

# Use by other processes above this makes a figure doubtful; the report marks it.
_NOISE_CORES = 0.15
_GROWTH = "growth"
_PRECISIONS = ("fp32", "bf16", "int8")


def markdown(results: Results) -> str:
    """The whole report."""
    parts = [_head(results), verdict(results)]
    parts += [_point(results, one) for one in results.points if one.scenario != _GROWTH]
    parts += _growth(results)
    parts += [_ceilings(results), _candidates(results), _notes()]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(results: Results) -> str:
    facts = ", ".join(f"{name} {value}" for name, value in results.machine.items())
    lines = [
        "# Benchmark",
        "",
        f"{results.began}, commit {results.commit}, options: {results.options or 'none'}. {facts}.",
    ]
    foreign = [
        sample.foreign_cores
        for point in results.points
        for measured in point.measured.values()
        for sample in measured.samples
    ]
    if noisy := sum(cores > _NOISE_CORES for cores in foreign):
        lines += [
            "",
            f"Other processes kept more than {_NOISE_CORES} cores busy in {noisy} of "
            f"{len(foreign)} samples: those figures are unreliable.",
        ]
    lines += [f"\nSkipped: {name}: {reason}" for name, reason in results.skipped.items()]
    return "\n".join(lines)


def _point(results: Results, point: Point) -> str:
    model = results.models[point.model]
    ranked = best(point, list(point.measured), len(point.measured))
    several, judged = point.clients > 1, point.scenario == point.model
    head = ["candidate", "precision", "tokens/s"]
    head += ["p50 ms", "p99 ms", "requests/s"] if several else ["s a request"]
    head += ["of ceiling"]
    head += ["max |Δ|", "tau", "top 10", "Cranfield tau", "nDCG@10 (drift)"] if judged else []
    head += ["start s", "peak GB", "others' cores"]
    rows = [
        [
            _name(results, name),
            results.candidates[name].precision,
            _ranged(rates(point, name)),
            *_latency(point, point.measured[name].samples),
            _of_ceiling(results, point, name),
            *(_fidelity(model.fidelity.get(name)) if judged else []),
            *_costs(model, name),
            _noise(point.measured[name].samples),
        ]
        for name in ranked
    ]
    clients = "1 client" if point.clients == 1 else f"{point.clients} clients"
    parts = [
        f"## {point.label}",
        f"{model.title}; {point.requests} × {point.passages} passages, {point.tokens} tokens, "
        f"{clients} at a time.",
        table(head, rows),
        _ratios(results, point, ranked),
        _reasons("Not measured:", {n: m.failure for n, m in point.measured.items() if m.failure}),
        _reasons("Fidelity not measured:", model.fidelity_failures if judged else {}),
    ]
    return "\n\n".join(part for part in parts if part)


def _name(results: Results, name: str) -> str:
    return f"**{name}**" if results.candidates[name].ours else name


def _ranged(values: Sequence[float]) -> str:
    return median_and_range(spread(values))


def _latency(point: Point, samples: Sequence[Sample]) -> list[str]:
    if point.clients == 1:
        return [_ranged([sample.seconds for sample in samples])]
    return [
        _ranged([1e3 * statistics.median(sample.latencies_s) for sample in samples]),
        _ranged([1e3 * percentile(sample.latencies_s, 0.99) for sample in samples]),
        _ranged([point.requests / sample.seconds for sample in samples]),
    ]


def _of_ceiling(results: Results, point: Point, name: str) -> str:
    """Useful operations per second, as a share of the ceiling of the candidate's precision."""
    ceiling = results.models[point.model].ceilings.get(results.candidates[name].precision)
    if ceiling is None:
        return "–"
    return f"{point.flops / point.tokens * statistics.median(rates(point, name)) / ceiling:.0%}"


def _fidelity(found: Fidelity | None) -> list[str]:
    if found is None:
        return ["–"] * 5
    judged = ["–", "–"]
    if found.cranfield_tau is not None:
        judged = [f"{found.cranfield_tau:.3f}", f"{found.ndcg:.4f} ({found.ndcg_drift:+.4f})"]
    return [f"{found.max_abs_delta:.2g}", f"{found.tau:.3f}", f"{found.top10:.0%}", *judged]


def _costs(model: ModelFacts, name: str) -> list[str]:
    starts, memory = model.start_s.get(name), model.peak_rss_bytes.get(name)
    return [
        number(statistics.median(starts)) if starts else "–",
        f"{memory / 1e9:.2f}" if memory else "–",
    ]


def _noise(samples: Sequence[Sample]) -> str:
    worst = max(sample.foreign_cores for sample in samples)
    return f"{worst:.1f}" if worst > _NOISE_CORES else ""


def _ratios(results: Results, point: Point, ranked: Sequence[str]) -> str:
    """Ours over each peer."""
    ours = [name for name in ranked if results.candidates[name].ours]
    rows = []
    for peer in ranked:
        if peer not in ours:
            found = [ratio(point, mine, peer) for mine in ours]
            rows.append([peer, *("–" if one is None else median_and_range(one) for one in found)])
    if not ours or not rows:
        return ""
    text = "How many times as fast as the peer, median of the repeats (lowest–highest):"
    return f"{text}\n\n{table(['peer', *ours], rows)}"


def _reasons(title: str, reasons: Mapping[str, str]) -> str:
    """The candidates that were not measured to the end, with the reasons."""
    rows = [[name, reason] for name, reason in reasons.items()]
    return f"{title}\n\n{table(['candidate', 'why'], rows)}" if rows else ""


def _growth(results: Results) -> Iterator[str]:
    """One table for each model and axis: a row per candidate, a column per value."""
    series: dict[tuple[str, str], list[Point]] = {}
    for point in results.points:
        if point.scenario == _GROWTH:
            series.setdefault((point.model, point.axis), []).append(point)
    for (model, axis), points in series.items():
        names = list(dict.fromkeys(name for point in points for name in point.measured))
        rows = [
            [
                _name(results, name),
                *(_ranged(found) if (found := rates(p, name)) else "–" for p in points),
            ]
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
        "counted. The ceiling is the product of 512 rows in the model's shapes and the candidate's "
        "precision with PyTorch or OpenVINO, whichever is faster. Fidelity is measured "
        "against PyTorch in fp32, one row a call; tau over pairs that this tells apart. Others' "
        "cores: how many other processes kept busy in the worst repeat; blank below 0.15. Peak "
        "memory is that of the whole run, long texts included."
    )
