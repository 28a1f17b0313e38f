"""The three rungs, on figures made by hand and on real artifacts that were tampered with."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from exporter.answers import Reference, Tokens
from exporter.errors import ParityFailed, ReportRefused
from exporter.parity import check_ranking, flatness, kendall_tau, new_report
from exporter.parity_texts import Group, added_tokens_group, parity_groups
from exporter.proof import RankProof, golden_tolerance
from exporter.report import read_report, require_passed
from exporter.tokens import CheckpointTokenizer
from exporter.tokens import load_tokenizer as load_checkpoint_tokenizer
from runtime.errors import NonFiniteScore
from runtime.requests import RankRequest
from tests.exporter.targets import target_in

TEMPLATE = "question:{query} \n \n passage:{passage}"
PASSAGES = tuple(f"passage {i}" for i in range(8))
WANTED = np.linspace(-4, 4, 8)


def reference(logits: np.ndarray) -> Reference:
    group = Group("group", "query", PASSAGES)
    return Reference(
        "a witness", (group,), [[Tokens([0], None)] * len(PASSAGES)], [logits[:, None]]
    )


def proof(reference: Reference, max_tokens: int = 8192) -> RankProof:
    """A proof of a model that reads TEMPLATE."""
    manifest: Any = SimpleNamespace(
        template=TEMPLATE,
        instruction=None,
        instruction_format=None,
        tokenize_apart=False,
        max_tokens=max_tokens,
        vision=None,
    )
    return RankProof(manifest, reference)


class FixedRanker:
    """Scores by passage, as an engine would that gives `logits`."""

    def __init__(self, logits: np.ndarray) -> None:
        self._logits = dict(zip(PASSAGES, logits, strict=True))

    def rank(self, request: RankRequest) -> Any:
        return SimpleNamespace(
            logits=np.asarray([self._logits[p] for p in request.texts], np.float32)
        )


def climb(
    found: np.ndarray, wanted: np.ndarray = WANTED, precision: Any = "fp32", random: bool = False
) -> Any:
    report = new_report("onnxruntime-cpu", target_in(precision), "a witness", random_weights=random)
    try:
        proof(reference(wanted)).check_outputs(report, FixedRanker(found))  # type: ignore[arg-type]
    except ParityFailed as error:
        return report, error
    return report, None


def test_equal_scores_pass_both_rungs() -> None:
    report, error = climb(WANTED)
    assert error is None
    assert report.rungs["logits"].max_abs_delta < 1e-6
    assert report.rungs["ranking"].kendall_tau == 1.0
    assert report.rungs["ranking"].pairs == 28
    assert report.rungs["ranking"].top_k_overlap == 1.0


def test_a_logit_off_tolerance_names_rung_pair_scores_and_tolerance() -> None:
    report, error = climb(WANTED + np.eye(8)[3] * 0.002)
    assert error.rung == "logits"
    assert not report.rungs["logits"].passed
    for part in ("group[3]", f"{WANTED[3]:.6f}", f"{WANTED[3] + 0.002:.6f}", "0.0001"):
        assert part in str(error)


def test_nan_from_the_engine_fails_the_logits_rung() -> None:
    class Overflowing(FixedRanker):
        def rank(self, request: RankRequest) -> Any:
            raise NonFiniteScore(len(request.texts))

    report = new_report("onnxruntime-cpu", target_in("fp16"), "a witness", random_weights=False)
    with pytest.raises(ParityFailed, match="NaN or infinity"):
        proof(reference(WANTED)).check_outputs(report, Overflowing(WANTED))  # type: ignore[arg-type]
    assert not report.rungs["logits"].passed


def test_the_tolerance_grows_beyond_the_largest_logit() -> None:
    assert climb(WANTED * 5 + 0.00015, WANTED * 5)[1] is not None
    assert climb(WANTED + 100.0018, WANTED + 100.0)[1] is None


def test_a_swapped_pair_fails_the_ranking_rung_in_half_precision() -> None:
    close = np.asarray([0.0, 0.11, 0.22, 0.33, 0.44, 0.55, 0.66, 0.77])
    swapped = close[[1, 0, 2, 3, 4, 5, 6, 7]]
    report, error = climb(swapped, close, "fp16")
    assert not report.rungs["ranking"].passed
    assert report.rungs["ranking"].kendall_tau == pytest.approx(26 / 28)
    assert error is not None


def test_random_weights_in_half_precision_are_held_to_their_deviation_only() -> None:
    swapped = WANTED[[1, 0, 2, 3, 4, 5, 6, 7]] * 0.5 + WANTED * 0.5
    report, error = climb(swapped, precision="fp16", random=True)
    assert error is None
    assert report.rule == "random-weights"
    assert report.rungs["logits"].tolerance == pytest.approx(0.25 * WANTED.std())
    assert climb(WANTED + 1.0, precision="fp16", random=True)[1].rung == "logits"
    assert climb(swapped, precision="fp32", random=True)[1].rung == "logits"


def test_ties_and_near_ties_are_not_ordered() -> None:
    wanted = np.asarray([1.0, 1.0, 1.0000001, 2.0])
    assert kendall_tau(wanted, wanted[[2, 1, 0, 3]], 0.002) == (3, 0, 0, None)
    assert kendall_tau(wanted, np.asarray([1.0, 2.5, 1.0, 2.0]), 0.002) == (2, 1, 0, (3, 1))


def test_scores_that_barely_differ_are_held_to_a_share_of_their_deviation() -> None:
    """Else any graph would be within the tolerance, a causal one too."""
    wanted = WANTED * 1e-4
    report, error = climb(wanted, wanted)
    assert error is None
    assert report.rungs["ranking"].kendall_tau == 1.0
    assert report.rungs["logits"].tolerance == pytest.approx(wanted.std() / 10)
    assert golden_tolerance(report) == pytest.approx(wanted.std())
    assert climb(wanted[::-1], wanted)[1].rung == "logits"
    assert climb(wanted[::-1], wanted, "fp16")[1].rung == "ranking"


def test_scores_that_are_all_equal_have_no_order_but_numbers_in_float32() -> None:
    equal = np.full(8, 0.5)
    report, error = climb(equal, equal)
    assert error is None
    assert report.rungs["ranking"].kendall_tau is None
    assert climb(equal + 3e-5, equal)[1].rung == "logits"
    error = climb(equal, equal, "int8")[1]
    assert error.rung == "ranking"
    assert "int8 has no order to keep; export with cpu-fp32" in str(error)


def test_flat_scores_are_reported_with_what_was_seen() -> None:
    assert flatness([WANTED], "scores") is None
    assert flatness([np.asarray([0.5, 0.51])], "scores") is None
    message = flatness([np.asarray([0.5, 0.502]), np.asarray([0.501])], "scores")
    assert "the 3 of the parity texts are between 0.5 and 0.502, 0.002 apart" in str(message)


def test_half_precision_of_trained_weights_is_held_to_the_order_alone() -> None:
    report, error = climb(WANTED + 0.2, precision="fp16")
    assert error is None
    assert report.rungs["logits"].tolerance is None
    assert report.rungs["logits"].max_abs_delta == pytest.approx(0.2, abs=1e-6)
    assert golden_tolerance(report) == pytest.approx(0.4, abs=1e-6)


@pytest.mark.parametrize("text", ["{", "[]", '{"schema": 9}', '{"schema": 1}'])
def test_a_report_that_cannot_be_read_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "parity.json").write_text(text)
    with pytest.raises(ReportRefused, match=r"parity\.json"):
        read_report(tmp_path)


def test_a_report_with_a_rung_missing_or_failed_is_no_proof() -> None:
    report, _ = climb(WANTED)
    with pytest.raises(ParityFailed, match="tokens"):
        require_passed(report)


def test_added_tokens_become_passages() -> None:
    (group,) = added_tokens_group([f"<{i}>" for i in range(300)])
    text = " ".join(group.passages)
    assert "<0>" in text
    assert "<299>" in text
    assert text.count("<") == 20
    assert added_tokens_group([]) == ()


def test_the_texts_reach_what_they_are_for() -> None:
    groups = parity_groups(64)
    passages = [p for group in groups for p in group.passages]
    text = "".join([*passages, *(g.query for g in groups)])
    assert any(len(g.passages) == 1 for g in groups)
    for needle in ("<|begin_of_text|>", "passage:", "{query}", "\u0301", "京", "ủ", "\u200d", "ש"):
        assert needle in text
    assert max(len(p.split()) for p in passages) >= 64


@pytest.fixture
def saved(tiny_llama_checkpoint: Path, tmp_path: Path) -> Path:
    """A directory with the checkpoint's tokenizer, as an artifact has it."""
    (tmp_path / "tokenizer").mkdir()
    shutil.copy(tiny_llama_checkpoint / "tokenizer.json", tmp_path / "tokenizer")
    return tmp_path


def checkpoint_tokens(directory: Path, max_tokens: int) -> Reference:
    tokenizer = CheckpointTokenizer(
        load_checkpoint_tokenizer(directory, "llama_bidirec"), directory, TEMPLATE, max_tokens
    )
    groups = parity_groups(max_tokens)
    tokens = [[tokenizer.encode(g.query, p)[0] for p in g.passages] for g in groups]
    return Reference("a witness", groups, tokens, [])


@pytest.mark.parametrize("max_tokens", [48, 512])
def test_the_runtime_tokenises_and_cuts_like_transformers(
    tiny_llama_checkpoint: Path, saved: Path, max_tokens: int
) -> None:
    wanted = checkpoint_tokens(tiny_llama_checkpoint, max_tokens)
    assert len(wanted.tokens[-1][0].token_ids) == max_tokens
    report = new_report("onnxruntime-cpu", target_in("fp32"), "a witness", random_weights=False)
    proof(wanted, max_tokens).check_tokens(report, saved)
    assert report.rungs["tokens"].passed


def test_another_limit_is_seen_at_the_tokens_rung(tiny_llama_checkpoint: Path, saved: Path) -> None:
    wanted = checkpoint_tokens(tiny_llama_checkpoint, 512)
    report = new_report("onnxruntime-cpu", target_in("fp32"), "a witness", random_weights=False)
    with pytest.raises(ParityFailed, match=r"at the limit\[0\].*512 in all.*511 in all"):
        proof(wanted, 511).check_tokens(report, saved)
    assert not report.rungs["tokens"].passed


def test_int8_must_keep_the_best_passages() -> None:
    wanted = np.linspace(-4, 4, 40)
    found = wanted.copy()
    found[[30, 31]], found[[28, 29]] = wanted[[28, 29]], wanted[[30, 31]]
    group = Group("group", "query", tuple(f"passage {i}" for i in range(40)))
    report = new_report("onnxruntime-cpu", target_in("int8"), "a witness", random_weights=False)
    failure = check_ranking(report, [(group, wanted, found)], 1e-3)
    assert report.rungs["ranking"].top_k_overlap == 0.8
    assert (report.rungs["ranking"].kendall_tau or 0) > 0.98
    assert failure is not None
    assert "80% are still among the best, wanted 90%" in failure
