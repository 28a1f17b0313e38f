"""An embedder's rungs, on vectors made by hand."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from exporter.answers import Reference, Text, Tokens, cosines
from exporter.errors import ParityFailed
from exporter.parity import new_report
from exporter.parity_texts import Group
from exporter.proof import EmbedProof, vector_golden_tolerance
from exporter.report import Parity
from runtime.errors import NonFiniteScore
from runtime.requests import EmbedRequest
from tests.exporter.targets import target_in

PASSAGES = tuple(f"passage {i}" for i in range(8))
# The query along the first axis, passages at growing angles to it.
ANGLES = np.concatenate([[0.0], np.linspace(0.2, 1.4, 8)])
WANTED = np.stack([np.cos(ANGLES), np.sin(ANGLES), 0 * ANGLES], axis=1)


def reference(vectors: np.ndarray) -> Reference:
    group = Group("group", "query", PASSAGES)
    texts = [
        Text("group[query]", "query", "query"),
        *(Text(group.label(i), passage, "passage") for i, passage in enumerate(PASSAGES)),
    ]
    tokens = [[Tokens([0], None)] * len(texts)]
    return Reference("a witness", (group,), tokens, [vectors], [texts])


def check_vectors(report: Parity, wanted: Reference, embedder: Any) -> None:
    """The rungs of outputs, which read nothing in the manifest."""
    EmbedProof(SimpleNamespace(), wanted).check_outputs(report, embedder)  # type: ignore[arg-type]


class FixedEmbedder:
    """Vectors by text, as an engine would that gives `vectors`."""

    def __init__(self, vectors: np.ndarray) -> None:
        self._vectors = dict(zip(("query", *PASSAGES), vectors, strict=True))
        self.asked: list[tuple[str, int]] = []

    def embed(self, request: EmbedRequest) -> Any:
        self.asked.append((request.input_type, len(request.texts)))
        rows = [self._vectors[text] for text in request.texts]
        return SimpleNamespace(vectors=np.asarray(rows, np.float32))


def climb(
    found: np.ndarray, wanted: np.ndarray = WANTED, precision: Any = "fp32", random: bool = False
) -> Any:
    report = new_report("onnxruntime-cpu", target_in(precision), "a witness", random_weights=random)
    try:
        check_vectors(report, reference(wanted), FixedEmbedder(found))
    except ParityFailed as error:
        return report, error
    return report, None


def turned(vectors: np.ndarray, angle: float) -> np.ndarray:
    """Rows turned by `angle` in the plane of the first two axes, every second one back."""
    turns = np.full(len(vectors), angle)
    turns[::2] *= -1
    x, y, z = vectors.T
    return np.stack(
        [x * np.cos(turns) - y * np.sin(turns), x * np.sin(turns) + y * np.cos(turns), z], axis=1
    )


def test_equal_vectors_pass_both_rungs() -> None:
    report, error = climb(WANTED)
    assert error is None
    assert report.rungs["logits"].max_abs_delta < 1e-7
    assert report.rungs["logits"].pairs == 9
    assert report.rungs["logits"].lowest_cosine == pytest.approx(1.0)
    assert report.rungs["ranking"].kendall_tau == 1.0
    assert report.rungs["ranking"].pairs == 28


def test_every_text_is_asked_alone_together_and_shuffled() -> None:
    embedder = FixedEmbedder(WANTED)
    report = new_report("onnxruntime-cpu", target_in("fp32"), "a witness", random_weights=False)
    check_vectors(report, reference(WANTED), embedder)
    assert embedder.asked.count(("passage", 8)) == 2
    assert embedder.asked.count(("query", 1)) == 3
    assert embedder.asked.count(("passage", 1)) == 8


def test_a_component_off_tolerance_names_rung_text_values_and_tolerance() -> None:
    shifted = WANTED.copy()
    shifted[4, 2] = 3e-5
    report, error = climb(shifted)
    assert error.rung == "logits"
    assert not report.rungs["logits"].passed
    for part in ("group[3]", "component 2", "0.000000", "0.000030", "1e-05"):
        assert part in str(error)


def test_the_tolerance_grows_with_the_length_of_a_vector() -> None:
    assert climb(WANTED * 50 + 3e-4, WANTED * 50)[1] is None
    assert climb(WANTED * 50 + 7e-4, WANTED * 50)[1] is not None


def test_a_swapped_pair_fails_the_ranking_rung_in_half_precision() -> None:
    swapped = WANTED[[0, 2, 1, 3, 4, 5, 6, 7, 8]]
    report, error = climb(swapped, precision="fp16")
    assert error.rung == "ranking"
    assert report.rungs["logits"].passed
    assert report.rungs["logits"].tolerance is None
    assert report.rungs["ranking"].kendall_tau == pytest.approx(26 / 28)


def test_random_weights_in_half_precision_are_held_to_their_deviation_only() -> None:
    spread = np.sqrt(WANTED.var(axis=0).mean())
    near = turned(WANTED, 0.03)
    report, error = climb(near, precision="fp16", random=True)
    assert error is None
    assert report.rungs["logits"].tolerance == pytest.approx(0.25 * spread)
    far = turned(WANTED, 0.5)
    assert climb(far, precision="fp16", random=True)[1].rung == "logits"


def test_what_all_vectors_share_does_not_widen_the_tolerance() -> None:
    """Random weights give vectors that nearly agree; a wrong one must still be far off."""
    shared = np.concatenate([WANTED * 0.01, np.ones((9, 1))], axis=1)
    wrong = shared.copy()
    wrong[:, :3] = wrong[::-1, :3]
    assert climb(shared, shared, "fp16", random=True)[1] is None
    assert climb(wrong, shared, "fp16", random=True)[1].rung == "logits"


def test_vectors_that_all_agree_have_no_order_but_components_in_float32() -> None:
    alike = np.tile(WANTED[:1], (9, 1))
    report, error = climb(alike, alike)
    assert error is None
    assert report.rungs["ranking"].kendall_tau is None
    assert climb(turned(alike, 0.01), alike)[1].rung == "logits"
    error = climb(alike, alike, "fp16")[1]
    assert error.rung == "ranking"
    assert "no order to keep" in str(error)


def test_nan_from_the_engine_fails_the_logits_rung() -> None:
    class Overflowing(FixedEmbedder):
        def embed(self, request: EmbedRequest) -> Any:
            raise NonFiniteScore(len(request.texts))

    report = new_report("onnxruntime-cpu", target_in("fp16"), "a witness", random_weights=False)
    with pytest.raises(ParityFailed, match="NaN or infinity"):
        check_vectors(report, reference(WANTED), Overflowing(WANTED))
    assert not report.rungs["logits"].passed


def test_goldens_may_differ_more_where_vectors_are_longer() -> None:
    report, _ = climb(WANTED)
    assert vector_golden_tolerance(report, reference(WANTED)) == pytest.approx(1e-4)
    assert vector_golden_tolerance(report, reference(WANTED * 7)) == pytest.approx(7e-4)


def test_half_precision_goldens_go_by_what_was_measured() -> None:
    report, _ = climb(WANTED + np.eye(9, 3) * 0.02, precision="fp16")
    assert vector_golden_tolerance(report, reference(WANTED)) == pytest.approx(0.04, rel=1e-3)


def test_cosines_are_those_to_the_first_row_and_zero_for_a_zero_vector() -> None:
    rows = np.asarray([[2.0, 0.0], [0.0, 3.0], [5.0, 0.0], [0.0, 0.0]])
    assert cosines(rows).tolist() == [0.0, 1.0, 0.0]
