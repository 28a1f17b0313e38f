"""`rerank-export tune`: the batches and concurrent calls that are fastest on this machine.

All candidates are measured in turns on the same texts with the artifact's own engine and scheduler,
in reverse order every other round; speeds are compared only within a round. A candidate replaces
the target's own limits if it was faster in three rounds of four, so that noise changes nothing.
"""

import statistics
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

from exporter.library_texts import mixed_group
from exporter.parity_texts import Group
from exporter.progress import print_line
from runtime.artifact import find_directory
from runtime.batch import BatchLimits
from runtime.embedder import Embedder
from runtime.model import Model
from runtime.opening import open_model
from runtime.outputs import locked_directory
from runtime.profile import load_target_profile
from runtime.ranker import Ranker
from runtime.requests import EmbedRequest, RankRequest
from runtime.tuning import TUNING_FILE, Tuning, conditions, write_tuning

_FEWEST_ROUNDS = 3
# The least gain that is worth a file.
_LEAST_GAIN = 1.02
# Texts of one pass; fewer if a slow engine could not finish its rounds in time.
_MOST_TEXTS, _FEWEST_TEXTS = 64, 16
_PROBE_TEXTS = 8
_LOG_EVERY_S = 10.0


@dataclass(frozen=True)
class Trial:
    """Limits and their tokens a second, round by round."""

    limits: BatchLimits
    tokens_per_s: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """The median of its speeds."""
        return statistics.median(self.tokens_per_s)

    def gain(self, default: "Trial") -> float:
        """How many times as fast as `default` it was in at least three rounds of four."""
        ratios = [a / b for a, b in zip(self.tokens_per_s, default.tokens_per_s, strict=True)]
        return sorted(ratios)[len(ratios) // 4]


@dataclass(frozen=True)
class Outcome:
    """The trials, the target's own limits first, and the one to use: the first where none gains.
    Each pass computed `texts` texts on an engine with `lanes`."""

    trials: list[Trial]
    best: Trial
    texts: int
    lanes: int

    @property
    def changed(self) -> bool:
        """Whether other limits than the target's own are the ones to use."""
        return self.best is not self.trials[0]


def tune(directory: Path, seconds: float) -> Outcome:
    """Measure for about `seconds` and write tuning.json, or remove it where the target's own limits
    are best.

    Raises OutputRefused where another command works in the directory or nothing can be written,
    ArtifactError or EngineError when the artifact cannot be opened.
    """
    directory = find_directory(directory)
    with locked_directory(directory), closing(open_model(directory)) as model:
        target = load_target_profile(model.info.target)
        own = BatchLimits(target.max_rows, target.token_budget, target.padding_waste)
        model.warm_up()
        trials = [Trial(limits) for limits in variants(own, model.lanes)]
        group = group_within_time(model, _FEWEST_ROUNDS * len(trials), seconds, _FEWEST_TEXTS)
        _measure(model, trials, group, seconds)
        best = max(trials, key=lambda one: _worth(one, trials[0]))
        outcome = Outcome(trials, best, len(group.passages), model.lanes)
        _store(directory, model, outcome)
    return outcome


def variants(own: BatchLimits, lanes: int) -> list[BatchLimits]:
    """The limits to try on an engine with `lanes`, the target's `own` first; none goes beyond them,
    so that memory and fidelity stay what the target promises."""
    budgets = [max(1, own.token_budget >> halvings) for halvings in range(4)]
    found = [replace(own, token_budget=budget) for budget in budgets]
    if own.padding_waste:
        found += [replace(own, padding_waste=share * own.padding_waste) for share in (0.5, 0.0)]
    found += [replace(own, lanes=fewer) for fewer in sorted({1, lanes // 2}) if 0 < fewer < lanes]
    return found


def group_within_time(model: Model, passes: int, seconds: float, fewest: int) -> Group:
    """Mixed texts, so many that `passes` take `model` half of `seconds`; at least `fewest`, and a
    log line if these are too slow."""
    limit = model.info.max_tokens
    probe = mixed_group(_PROBE_TEXTS, limit)
    tokens_per_s(model, probe)
    began = time.monotonic()
    tokens_per_s(model, probe)
    a_text_s = (time.monotonic() - began) / _PROBE_TEXTS
    count = int(seconds / (2 * passes) / max(a_text_s, 1e-9))
    count = min(_MOST_TEXTS, max(fewest, count))
    if (least_s := passes * count * a_text_s) > seconds:
        print_line(f"this engine is slow: the minimum of rounds takes about {least_s:.0f} s")
    return mixed_group(count, limit)


def tokens_per_s(model: Model, group: Group) -> float:
    """The speed of one request with all passages, from its submission to its last row."""
    if isinstance(model, Ranker):
        ranking = model.rank(RankRequest(group.query, group.passages, truncate="END"))
        counts, timing = ranking.token_counts, ranking.timing
    elif isinstance(model, Embedder):
        embeddings = model.embed(EmbedRequest(group.passages, "passage", truncate="END"))
        counts, timing = embeddings.token_counts, embeddings.timing
    else:
        raise AssertionError(f"no such kind of model: {type(model).__name__}")
    return float(counts.sum()) / ((timing.queue_ms + timing.engine_ms) * 1e-3)


def _worth(trial: Trial, default: Trial) -> float:
    gain = trial.gain(default)
    return gain if gain >= _LEAST_GAIN or trial is default else 0.0


def _measure(model: Model, trials: Sequence[Trial], group: Group, seconds: float) -> None:
    """Measure complete rounds until the time is over, but at least _FEWEST_ROUNDS."""
    began = time.monotonic()
    tokens_per_s(model, group)  # the engine's memory grows to its size, untimed
    logged_at = began
    while (rounds := len(trials[0].tokens_per_s)) < _FEWEST_ROUNDS or (
        time.monotonic() - began < seconds
    ):
        order = trials if rounds % 2 == 0 else trials[::-1]
        found = []
        for trial in order:
            model.set_limits(trial.limits)
            found.append(tokens_per_s(model, group))
            now = time.monotonic()
            if now - logged_at >= _LOG_EVERY_S:
                logged_at = now
                print_line(f"{now - began:.0f} of {seconds:.0f} s, round {rounds + 1}")
            if now - began > seconds and rounds >= _FEWEST_ROUNDS:
                break
        else:
            for trial, speed in zip(order, found, strict=True):
                trial.tokens_per_s.append(speed)


def _store(directory: Path, model: Model, outcome: Outcome) -> None:
    best, default = outcome.best, outcome.trials[0]
    if not outcome.changed:
        (directory / TUNING_FILE).unlink(missing_ok=True)
        return
    tuning = Tuning(
        conditions=conditions(model.info),
        token_budget=best.limits.token_budget,
        padding_waste=best.limits.padding_waste,
        lanes=best.limits.lanes,
        tokens_per_s=best.median,
        default_tokens_per_s=default.median,
    )
    write_tuning(directory, tuning)
