"""The faults of `make soak`."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from checks.soak import Sample, Seen, _verdict, faults_of


def sound() -> Seen:
    """Twenty minutes without a fault."""
    seen = Seen(scores=100, vectors=10, reloads=1)
    seen.statuses["good 200"] = 100
    seen.samples = [Sample(2.0 * n, 10**9 + n % 2, 20, 30) for n in range(600)]
    return seen


def leak(seen: Seen) -> None:
    seen.samples = [
        replace(one, resident=one.resident + int(one.seconds * 1e5)) for one in seen.samples
    ]


def lose_threads(seen: Seen) -> None:
    half = len(seen.samples) * 7 // 10
    seen.samples[half:] = [replace(one, threads=one.threads + 9) for one in seen.samples[half:]]


def fail(seen: Seen) -> None:
    seen.statuses["good 500"] = 1


def mix_vectors_up(seen: Seen) -> None:
    wanted = list(np.eye(4, dtype=np.float32))
    seen.check_vectors(wanted, [vector.tolist() for vector in reversed(wanted)])


def shorten_vectors(seen: Seen) -> None:
    wanted = list(np.eye(4, dtype=np.float32))
    seen.check_vectors(wanted, [vector[:3].tolist() for vector in wanted])


def check_no_vector(seen: Seen) -> None:
    seen.vectors = 0


def reload_nothing(seen: Seen) -> None:
    seen.reloads = 0


def test_nothing_wrong() -> None:
    seen = sound()
    wanted = list(np.eye(4, dtype=np.float32))
    seen.check_vectors(wanted, [vector.tolist() for vector in wanted])
    assert faults_of(seen) == []
    assert _verdict(seen, []) == "nothing wrong"
    assert seen.vectors == 14


@pytest.mark.parametrize(("minutes", "faults"), [(2, 0), (6, 1)])
def test_memory_is_judged_over_several_reloads(minutes: int, faults: int) -> None:
    seen = sound()
    leak(seen)
    seen.samples = seen.samples[: minutes * 30]
    assert len(faults_of(seen)) == faults
    wanted = "failed" if faults else "nothing wrong; memory not judged (too short)"
    assert _verdict(seen, faults_of(seen)) == wanted


@pytest.mark.parametrize(
    "spoil",
    [
        leak,
        lose_threads,
        fail,
        mix_vectors_up,
        shorten_vectors,
        check_no_vector,
        reload_nothing,
    ],
)
def test_what_is_wrong_is_found(spoil: Callable[[Seen], None]) -> None:
    seen = sound()
    spoil(seen)
    assert len(faults_of(seen)) == 1


def test_a_server_without_an_embedder_has_no_vectors() -> None:
    seen = replace(sound(), vectors=0, kinds=("rank",))
    assert faults_of(seen) == []
