"""The Markdown report of a run: it contains everything that was measured."""

import pytest

from benchmarks.report import markdown
from benchmarks.results import (
    CandidateFacts,
    Fidelity,
    Measured,
    ModelFacts,
    Point,
    Results,
    Sample,
    Spread,
)
from benchmarks.tables import median_and_range, number, table


def sample(seconds: float, foreign_cores: float = 0.0) -> Sample:
    return Sample(seconds, [seconds], [1.0, 0.0], foreign_cores)


@pytest.fixture
def results() -> Results:
    measured = {
        "ours-fp32": Measured([sample(1.0), sample(2.0)]),
        "peer": Measured([sample(4.0), sample(4.0, foreign_cores=1.5)]),
        "broken": Measured(failure="ended with status 1: no | such file"),
    }
    main = Point("tiny", "tiny", "tiny: 1 query × 2 passages", 2, 1, 1, 100, 1e9)
    main.measured = measured
    clients = Point("clients", "tiny", "tiny: 4 clients", 1, 8, 4, 100, 1e9, measured=measured)
    grown = [
        Point("growth", "tiny", f"tiny: {n}", n, 1, 1, 100, 1e9, "passages", n, measured)
        for n in (1, 8)
    ]
    facts = ModelFacts(
        "a tiny model",
        ceilings={"fp32": 4e9},
        start_s={"ours-fp32": [1.5]},
        peak_rss_bytes={"ours-fp32": 250_000_000},
        fidelity={"ours-fp32": Fidelity(2, 1e-6, 0.5, 1.0, 1.0, 0.99, 0.4, -0.01)},
    )
    return Results(
        began="2026-01-01 00:00",
        commit="abc",
        options="",
        machine={"cores": "2"},
        candidates={
            name: CandidateFacts("1.0", "fp32", name.startswith("ours"), True, "")
            for name in measured
        },
        models={"tiny": facts},
        points=[main, clients, *grown],
    )


def row(text: str, name: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.startswith(f"| {name} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_main_table_has_speed_fidelity_and_cost(results: Results) -> None:
    cells = row(markdown(results), "**ours-fp32**")
    assert cells[2:5] == ["75 (50–100)", "1.5 (1–2)", "19%"]
    assert cells[5:10] == ["1e-06", "1.000", "100%", "0.990", "0.4000 (-0.0100)"]
    assert cells[10:] == ["1.5", "0.25", ""]


def test_the_fastest_stands_first_and_noise_is_shown(results: Results) -> None:
    text = markdown(results)
    text = text[text.index("## tiny") :]
    assert text.index("| **ours-fp32** |") < text.index("| peer |")
    assert row(text, "peer")[-1] == "1.5"
    assert "in 4 of 16 samples" in markdown(results)


def test_ratios_have_their_spread(results: Results) -> None:
    assert "| peer | 3 (2–4) |" in markdown(results)


def test_whoever_was_not_measured_is_named_with_the_reason(results: Results) -> None:
    text = markdown(results)
    assert text.count("| broken | ended with status 1: no \\| such file |") == 2
    assert "Not measured: broken: ended with status 1" in text


def test_whoever_could_not_be_judged_is_named_with_the_reason(results: Results) -> None:
    results.models["tiny"].fidelity_failures["peer"] = "no reference: ended"
    assert "| peer | no reference: ended |" in markdown(results)


def test_growth_is_one_table_an_axis(results: Results) -> None:
    text = markdown(results)
    assert "## tiny: growth in passages" in text
    assert "| tokens/s | 1 passages | 8 passages |" in text
    assert "| broken | – | – |" in text


def test_a_model_that_could_not_be_made_is_named(results: Results) -> None:
    results.skipped["minilm"] = "its weights are not here"
    assert "minilm: its weights are not here" in markdown(results)


@pytest.mark.parametrize(
    ("value", "wanted"),
    [(0.0, "0"), (0.00123, "0.00123"), (1.5, "1.5"), (99.94, "99.9"), (12345.6, "12346")],
)
def test_numbers_have_few_digits_and_no_exponent(value: float, wanted: str) -> None:
    assert number(value) == wanted


def test_one_value_has_no_range() -> None:
    assert median_and_range(Spread(2.0, 2.0, 2.0)) == "2"
    assert median_and_range(Spread(2.0, 1.0, 3.0)) == "2 (1–3)"


def test_a_table_without_rows_is_nothing() -> None:
    assert table(["a"], []) == ""
    assert table(["a"], [["b"]]) == "| a |\n| --- |\n| b |"
