"""What is said of a difference, held to SciPy on fixed scores."""

import math
from pathlib import Path

import msgspec
import numpy as np
import pytest
from scipy import stats

from recipe.errors import Worsened
from recipe.evaluation.collection import Collection
from recipe.evaluation.measured import Measured
from recipe.evaluation.pairs import Pair, find_pairs, seed_pairs, sentences, tables, worsening
from recipe.evaluation.results import Basis, Column
from recipe.evaluation.session import require_no_worsening
from recipe.evaluation.significance import Figures, gains, holm
from recipe.evaluation.spread import spread_table


def figures(queries: int, shift: float, spread: float = 0.14, seed: int = 1) -> Figures:
    """float64 [queries, 2]: a column, and another one that differs by `shift` on average."""
    random = np.random.default_rng(seed)
    before = random.uniform(0.2, 0.8, queries)
    noise = random.normal(0, spread, queries)
    return np.stack([before, before + noise - noise.mean() + shift], axis=1)


def test_the_interval_is_scipys() -> None:
    before, after = figures(248, 0.013).T
    (gain,) = gains(before[:, None], after[:, None])
    wanted = stats.bootstrap(
        (after - before,), np.mean, n_resamples=10_000, method="percentile", rng=7
    ).confidence_interval
    assert gain.difference == pytest.approx(0.013)
    # Both draw: their ends differ by a thirtieth of the width.
    assert (gain.low, gain.high) == pytest.approx(tuple(wanted), abs=0.0012)


@pytest.mark.parametrize("queries", [5, 9, 12])
def test_p_of_few_queries_is_scipys_exactly(queries: int) -> None:
    before, after = figures(queries, 0.08).T
    (gain,) = gains(before[:, None], after[:, None])
    wanted = stats.permutation_test(
        (after - before,), np.mean, permutation_type="samples", n_resamples=np.inf
    ).pvalue
    assert gain.p == pytest.approx(wanted)


@pytest.mark.parametrize("shift", [0.0, 0.013, -0.013, 0.03])
def test_p_of_many_queries_is_scipys(shift: float) -> None:
    before, after = figures(248, shift).T
    (gain,) = gains(before[:, None], after[:, None])
    wanted = stats.permutation_test(
        (after - before,), np.mean, permutation_type="samples", n_resamples=9_999, rng=7
    ).pvalue
    assert gain.p == pytest.approx(wanted, abs=0.02)


def test_queries_that_do_not_differ_change_no_p() -> None:
    before, after = figures(9, 0.08).T
    same = np.full(20, 0.5)
    (alone,) = gains(before[:, None], after[:, None])
    many = gains(np.append(before, same)[:, None], np.append(after, same)[:, None])[0]
    assert many.p == alone.p
    assert (many.wins, many.losses, many.ties) == (alone.wins, alone.losses, 20)
    assert many.queries == 29


def test_the_queries_needed_are_those_of_the_formula() -> None:
    before, after = figures(248, 0.013).T
    deviation = float((after - before).std(ddof=1))
    wanted = ((stats.norm.ppf(0.975) + stats.norm.ppf(0.8)) * deviation / 0.013) ** 2
    assert gains(before[:, None], after[:, None])[0].needed == math.ceil(wanted)
    assert gains(before[:, None], before[:, None])[0].needed is None


def test_several_measures_are_corrected_step_by_step() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    family = np.stack([figures(60, shift, seed=n) for n, shift in enumerate((0.0, 0.03, 0.06))])
    found = gains(family[:, :, 0].T, family[:, :, 1].T)
    assert [one.corrected_p for one in found] == holm([one.p for one in found])
    # A measure has the same figures alone and in a family.
    alone = gains(family[1, :, :1], family[1, :, 1:])[0]
    both = ((one.p, one.low, one.high) for one in (alone, found[1]))
    assert next(both) == pytest.approx(next(both))


def ranked(ranks: list[int]) -> dict[str, dict[str, float]]:
    """Scores that put each query's positive `p` at the given rank among 10 others."""
    return {
        f"q{n}": {**{f"d{other}": -float(other) for other in range(1, 11)}, "p": 0.5 - rank}
        for n, rank in enumerate(ranks)
    }


def pair_of(before: list[int], after: list[int], missing: int = 0) -> Pair:
    grades = {f"q{n}": {"p": 1} for n in range(len(before))}
    grades |= {f"m{n}": {"p": 1} for n in range(missing)}
    scores = {
        name: ranked(ranks) | {f"m{n}": {"d1": 1.0} for n in range(missing)}
        for name, ranks in (("base", before), ("finetuned", after))
    }
    (pair,) = find_pairs(Measured({}, scores, Collection({}, {}, grades, ""), [1, 5, 10]))
    return pair


LOW, HIGH = [3] * 12, [1] * 12
MIXED = [3, 1] * 6


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (HIGH, LOW, "worse"),
        (LOW, HIGH, "better"),
        (MIXED, MIXED[::-1], "not more than chance"),
        (LOW, LOW, "not more than chance"),
        # The bootstrap of equal differences has no width, however few they are.
        (HIGH[:5], LOW[:5], "not more than chance"),
    ],
)
def test_a_worsening_an_improvement_and_a_draw(
    before: list[int], after: list[int], said: str
) -> None:
    pair = pair_of(before, after)
    assert pair.key == "NDCG@10"
    assert pair.said("NDCG@10") == said
    assert said in sentences(pair)[0]
    assert f"| {said} |" in "\n".join(tables([pair]))
    if said == "worse":
        with pytest.raises(Worsened, match=r"finetuned is worse than base over 12 queries: NDCG@1"):
            require_no_worsening(pair, Path("drift.md"), "advice")
    else:
        assert worsening(pair) == ""


def test_queries_that_cannot_move_are_counted() -> None:
    pair = pair_of(MIXED, MIXED[::-1], missing=4)
    assert pair.unmovable == 4
    assert "4 of 16 queries cannot move" in " ".join(sentences(pair))
    assert pair.gains["NDCG@10"].ties == 4


def test_base_to_finetuned_comes_first() -> None:
    scores = {name: ranked(MIXED) for name in ("retrieval", "base", "finetuned", "onnx")}
    grades = {f"q{n}": {"p": 1} for n in range(len(MIXED))}
    pairs = find_pairs(Measured({}, scores, Collection({}, {}, grades, ""), [10]))
    assert [(one.before, one.after) for one in pairs] == [
        ("base", "finetuned"),
        ("retrieval", "base"),
        ("retrieval", "finetuned"),
        ("retrieval", "onnx"),
        ("base", "onnx"),
        ("finetuned", "onnx"),
    ]


def test_seeds_are_compared_with_the_base_each_alone_and_in_the_mean() -> None:
    ranks = {"base": MIXED, "finetuned": HIGH, "finetuned-seed-1": MIXED[::-1]}
    grades = {f"q{n}": {"p": 1} for n in range(len(MIXED))}
    scores = {name: ranked(one) for name, one in ranks.items()}
    mean, *seeds = seed_pairs(Measured({}, scores, Collection({}, {}, grades, ""), [10]))
    assert [(one.before, one.after) for one in (mean, *seeds)] == [
        ("base", "mean of 2 seeds"),
        ("base", "finetuned"),
        ("base", "finetuned-seed-1"),
    ]
    # Rank 3 is worth 0.5: each query's mean is 0.25 above the base, or 0.25 below it.
    gain = mean.gains["NDCG@10"]
    assert [one.gains["NDCG@10"].difference for one in seeds] == [0.25, 0.0]
    assert gain.difference == pytest.approx(0.125)
    wanted = gains(np.array([[0.5], [1.0]] * 6), np.array([[1.0], [0.75]] * 6))[0]
    assert (gain.low, gain.high, gain.p) == (wanted.low, wanted.high, wanted.p)


def test_mean_and_spread_of_seeds() -> None:
    columns = [seeded(value) for value in (0.3, 0.4, 0.5)]
    lines = spread_table(seeded(0.35), columns)
    assert "| NDCG@10 | 0.3500 | 0.4000 | 0.1000 | 0.3000 … 0.5000 | 2/3 |" in lines
    assert "| NDCG@10 | – | 0.4000 | 0.1000 | 0.3000 … 0.5000 | – |" in spread_table(None, columns)


def seeded(value: float) -> Column:
    basis = Basis(eval_beir="", candidates="", prompt_template=None, max_length=1)
    figures = {"NDCG": {"NDCG@10": value}, "Recall": {}, "MAP": {}, "Precision": {}}
    return msgspec.convert({**figures, "source": "", "identity": "", "basis": basis}, Column)
