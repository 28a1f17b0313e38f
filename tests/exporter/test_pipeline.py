"""Complete exports: the contents of an artifact, and what a failed or killed export leaves."""

import json
import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from exporter import proof, target_graph
from exporter.errors import CheckpointRefused, ExportError, ManifestMismatch, ParityFailed
from exporter.pipeline import ExportArgs, export, verify
from runtime.errors import EngineUnavailable, FileChanged, GoldenMismatch, ProfileError
from runtime.manifest import read_manifest, write_manifest
from runtime.opening import open_ranker
from runtime.requests import RankRequest
from tests.exporter.conftest import ReadyGraph
from tests.tiny_checkpoints import write_llama


def test_an_artifact_holds_what_decides_its_scores(rank_artifact: Path) -> None:
    manifest = read_manifest(rank_artifact)
    assert manifest.profile == "llama-nemotron-rerank-1b-v2"
    assert manifest.template == "question:{query} \n \n passage:{passage}"
    assert (manifest.special_tokens.bos, manifest.special_tokens.eos) == (0, None)
    assert (manifest.pooling, manifest.temperature, manifest.causal) == ("avg", 1.0, False)
    assert (manifest.precision, manifest.opset, manifest.max_tokens) == ("fp32", 23, 1024)
    assert manifest.inputs == ["input_ids", "attention_mask"]
    assert "torch" in manifest.versions
    assert sorted(manifest.files) == [
        "model.onnx",
        "parity.json",
        "reference.json",
        "tokenizer/special_tokens_map.json",
        "tokenizer/tokenizer.json",
        "tokenizer/tokenizer_config.json",
    ]
    assert len(manifest.goldens) == 4
    assert manifest.goldens[0].token_ids[0] == 0


def test_parity_json_has_its_three_rungs(rank_artifact: Path) -> None:
    parity = json.loads((rank_artifact / "parity.json").read_bytes())
    assert parity["schema"] == 2
    assert (parity["engine"], parity["precision"]) == ("onnxruntime-cpu", "fp32")
    assert list(parity["rungs"]) == ["tokens", "logits", "ranking"]
    assert all(rung["passed"] for rung in parity["rungs"].values())
    logits = parity["rungs"]["logits"]
    assert logits["max_abs_delta"] <= 1e-5 < logits["tolerance"] == 1e-4
    assert parity["rungs"]["ranking"]["kendall_tau"] == 1.0
    assert parity["versions"]["transformers"]
    assert parity["hardware"]["machine"]
    assert parity["cut"].endswith("the witness's model is fed the ids that are kept")


def test_a_bert_artifact_tells_query_from_passage(pair_artifact: Path) -> None:
    manifest = read_manifest(pair_artifact)
    assert manifest.inputs == ["input_ids", "attention_mask", "token_type_ids"]
    assert (manifest.template, manifest.pooling, manifest.max_tokens) == (None, "cls", 512)
    with closing(open_ranker(pair_artifact)) as ranker:
        there = ranker.rank(RankRequest("deep learning", ["the sheep"])).logits[0]
        back = ranker.rank(RankRequest("the sheep", ["deep learning"])).logits[0]
    assert abs(there - back) > 1e-3


def scores(artifact: Path) -> list[float]:
    with closing(open_ranker(artifact)) as ranker:
        return ranker.rank(
            RankRequest("deep learning", ["the sheep", "neural networks"])
        ).logits.tolist()


def test_an_artifact_can_be_moved(rank_artifact: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(rank_artifact, tmp_path / "elsewhere")
    assert verify(moved, None, None) == read_manifest(rank_artifact)
    assert scores(moved) == scores(rank_artifact)


def test_verify_with_the_checkpoint_climbs_all_rungs(
    rank_artifact: Path, tiny_llama_checkpoint: Path, tmp_path: Path
) -> None:
    verify(rank_artifact, str(tiny_llama_checkpoint), None)
    other = write_llama(tmp_path / "other", seed=1)
    with pytest.raises(ParityFailed) as failed:
        verify(rank_artifact, str(other), None)
    assert failed.value.rung == "logits"


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer/tokenizer.json", "parity.json"])
def test_verify_names_a_file_with_one_byte_changed(
    rank_artifact: Path, tmp_path: Path, name: str
) -> None:
    copy = shutil.copytree(rank_artifact, tmp_path / "copy")
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(FileChanged) as changed:
        verify(copy, None, None)
    assert changed.value.name == name


def test_verify_sees_a_golden_that_no_longer_holds(rank_artifact: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(rank_artifact, tmp_path / "copy")
    manifest = json.loads((copy / "manifest.json").read_bytes())
    manifest["goldens"][0]["logit"] += 0.5
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(GoldenMismatch):
        verify(copy, None, None)


def test_weights_that_change_on_the_way_fail_at_the_logits_rung(
    tiny_llama_checkpoint: Path,
    rank_artifact: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def tamper(_: object, directory: Path) -> None:
        model = onnx.load(rank_artifact / "model.onnx")
        (weight,) = [one for one in model.graph.initializer if one.name == "score.weight"]
        weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * 1.5, weight.name))
        onnx.save(model, directory / "model.onnx")

    monkeypatch.setattr(target_graph, "move_to_onnx", tamper)
    out = tmp_path / "out"
    with pytest.raises(ParityFailed, match=r"pair .* the checkpoint gives .* tolerance") as failed:
        export(str(tiny_llama_checkpoint), out, ExportArgs())
    assert failed.value.rung == "logits"
    assert not out.exists()
    report = json.loads(failed.value.report.read_bytes())
    assert report["rungs"]["tokens"]["passed"]
    assert not report["rungs"]["logits"]["passed"]


def test_a_tokenizer_that_the_runtime_reads_otherwise_fails_at_the_tokens_rung(
    tiny_llama_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = proof.load_tokenizer

    def without_bos(path: Path) -> Any:
        changed = json.loads(path.read_bytes())
        changed["post_processor"] = None
        path.write_text(json.dumps(changed))
        return honest(path)

    monkeypatch.setattr(proof, "load_tokenizer", without_bos)
    with pytest.raises(ParityFailed, match=r"pair single\[0\]: from token id 0") as failed:
        export(str(tiny_llama_checkpoint), tmp_path / "out", ExportArgs())
    assert list(json.loads(failed.value.report.read_bytes())["rungs"]) == ["tokens"]


def test_missing_hardware_is_an_error_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(EngineUnavailable):
        export("/no/such/checkpoint", tmp_path / "out", ExportArgs(target="cuda-fp16"))


def test_more_tokens_than_the_checkpoint_has_are_refused(
    tiny_llama_checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointRefused, match="1024"):
        export(str(tiny_llama_checkpoint), tmp_path / "out", ExportArgs(max_tokens=4096))
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_profile_is_refused(tiny_llama_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match="no-such"):
        export(str(tiny_llama_checkpoint), tmp_path / "out", ExportArgs(profile="no-such"))


def test_a_profile_of_another_family_is_refused(
    tiny_llama_checkpoint: Path, tiny_bert_checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(ProfileError, match="has no template"):
        export(
            str(tiny_llama_checkpoint), tmp_path / "out", ExportArgs(profile="bert-cross-encoder")
        )
    with pytest.raises(ProfileError, match="has a template"):
        export(str(tiny_bert_checkpoint), tmp_path / "out", ExportArgs(profile="tiny-rerank-v1"))


def test_a_checkpoint_that_gives_nan_is_refused(tmp_path: Path) -> None:
    write_llama(tmp_path / "broken", temperature=float(np.finfo(np.float32).tiny) * 1e-30)
    with pytest.raises(CheckpointRefused, match="the checkpoint itself gives"):
        export(str(tmp_path / "broken"), tmp_path / "out", ExportArgs())


def test_a_tokenizer_of_another_checkpoint_is_refused(tmp_path: Path) -> None:
    write_llama(tmp_path / "small", vocab_size=100)
    with pytest.raises(CheckpointRefused, match="vocab_size = 100"):
        export(str(tmp_path / "small"), tmp_path / "out", ExportArgs())


# An export that stops for good once the graph is there, with all but the manifest still to come.
_HUNG = """
import shutil, sys, time
from exporter import target_graph
from exporter.cli import main

def hang(model, directory):
    shutil.copyfile(sys.argv[1], directory / "model.onnx")
    print("here", flush=True)
    time.sleep(3600)

target_graph.move_to_onnx = hang
main(["export", sys.argv[2], "--out", sys.argv[3]])
"""


def test_a_killed_export_leaves_nothing_that_looks_finished(
    tiny_llama_checkpoint: Path, rank_artifact: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    graph = rank_artifact / "model.onnx"
    with subprocess.Popen(
        [sys.executable, "-c", _HUNG, graph, tiny_llama_checkpoint, out],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"here\n"
        child.kill()
    (folder,) = tmp_path.iterdir()
    assert folder.name == ".out.rerank-export"
    assert (folder / "new" / "model.onnx").exists()
    assert not (folder / "new" / "manifest.json").exists()
    # The next one clears it away. The graph is exported anew: an export is reproducible.
    again = export(str(tiny_llama_checkpoint), out, ExportArgs())
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert again.version == read_manifest(rank_artifact).version


def test_a_small_limit_still_makes_an_artifact_that_opens(
    tiny_llama_checkpoint: Path, rank_artifact: Path, tmp_path: Path, ready_graph: ReadyGraph
) -> None:
    """Goldens are never cut texts: whoever opens the artifact does not cut them."""
    ready_graph(rank_artifact)
    export(str(tiny_llama_checkpoint), tmp_path / "out", ExportArgs(max_tokens=64))
    manifest = verify(tmp_path / "out", None, None)
    assert manifest.goldens
    assert all(len(golden.token_ids) < 64 for golden in manifest.goldens)


def test_a_limit_that_fits_no_text_is_refused(tiny_llama_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointRefused, match="raise --max-tokens"):
        export(str(tiny_llama_checkpoint), tmp_path / "out", ExportArgs(max_tokens=12))


def test_a_tokenizer_without_bos_is_refused(tiny_llama_checkpoint: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny_llama_checkpoint, tmp_path / "copy")
    tokenizer = json.loads((copy / "tokenizer.json").read_bytes())
    tokenizer["post_processor"] = None
    (copy / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(CheckpointRefused, match="no token at the beginning"):
        export(str(copy), tmp_path / "out", ExportArgs(max_tokens=128))


def test_a_token_that_only_transformers_adds_is_seen(
    tiny_llama_checkpoint: Path, tmp_path: Path
) -> None:
    """It is in tokenizer_config.json, which the runtime does not read."""
    copy = shutil.copytree(tiny_llama_checkpoint, tmp_path / "copy")
    config = json.loads((copy / "tokenizer_config.json").read_bytes())
    config["additional_special_tokens"] = ["<extra_1>"]
    (copy / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(ExportError):
        export(str(copy), tmp_path / "out", ExportArgs(max_tokens=128))


@pytest.mark.parametrize(
    ("fact", "value"), [("pooling", "last"), ("temperature", 9.0), ("causal", True)]
)
def test_verify_sees_a_manifest_that_claims_otherwise(
    rank_artifact: Path, tiny_llama_checkpoint: Path, tmp_path: Path, fact: str, value: object
) -> None:
    copy = shutil.copytree(rank_artifact, tmp_path / "copy")
    write_manifest(copy, msgspec.structs.replace(read_manifest(copy), **{fact: value}))
    with pytest.raises(ManifestMismatch, match=fact):
        verify(copy, str(tiny_llama_checkpoint), None)


def test_verify_sees_a_version_that_is_not_the_files(rank_artifact: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(rank_artifact, tmp_path / "copy")
    write_manifest(copy, msgspec.structs.replace(read_manifest(copy), version="deadbeef"))
    with pytest.raises(ManifestMismatch, match="version"):
        verify(copy, None, None)
