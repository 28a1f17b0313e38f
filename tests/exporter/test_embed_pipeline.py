"""Complete exports of embedders: the contents of an artifact, and refusals."""

import json
import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from exporter import pipeline
from exporter.answers import Tokens
from exporter.cli import main
from exporter.errors import CheckpointRefused, ManifestMismatch, ParityFailed
from exporter.pipeline import ExportArgs, export, verify
from exporter.witness.llama import LlamaEmbedder
from runtime.errors import GoldenMismatch, ProfileError
from runtime.manifest import Manifest, read_manifest, write_manifest
from runtime.opening import open_embedder
from runtime.requests import EmbedRequest
from tests.conftest import Exported
from tests.exporter.conftest import ReadyGraph
from tests.tiny_checkpoints import (
    write_llama,
    write_llama_embedder,
    write_sentence_transformers,
)

SHORT = ExportArgs(max_tokens=128)


@pytest.fixture(scope="module")
def sentence_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT pooled by its first token, not normalised, with a prompt for queries."""
    folder = tmp_path_factory.mktemp("checkpoints") / "sentences"
    prompts = {"query": "find: ", "document": ""}
    return write_sentence_transformers(folder, pooling="cls", normalize=False, prompts=prompts)


@pytest.fixture(scope="module")
def sentence_artifact(sentence_checkpoint: Path, exported: Exported) -> Path:
    return exported(sentence_checkpoint)


def test_an_embedders_artifact_holds_what_decides_its_vectors(embed_artifact: Path) -> None:
    manifest = read_manifest(embed_artifact)
    assert (manifest.kind, manifest.profile) == ("embed", "llama-nemotron-embed-1b-v2")
    assert manifest.model_id == "nvidia/llama-nemotron-embed-1b-v2"
    assert manifest.prefixes == {"query": "query: ", "passage": "passage: "}
    assert manifest.template is None
    assert (manifest.pooling, manifest.normalize, manifest.dimensions) == ("avg", True, 64)
    assert manifest.inputs == ["input_ids", "attention_mask"]
    assert manifest.outputs == ["embeddings"]
    assert manifest.goldens == []
    assert len(manifest.vector_goldens) == 4
    assert {golden.input_type for golden in manifest.vector_goldens} == {"query", "passage"}
    for golden in manifest.vector_goldens:
        assert np.linalg.norm(golden.vector) == pytest.approx(1.0, abs=1e-6)
        assert golden.token_ids[0] == 0


def test_its_parity_counts_texts_and_is_tight(embed_artifact: Path) -> None:
    rungs = json.loads((embed_artifact / "parity.json").read_bytes())["rungs"]
    assert list(rungs) == ["tokens", "logits", "ranking"]
    assert all(rung["passed"] for rung in rungs.values())
    assert rungs["logits"]["max_abs_delta"] <= 1e-6 < rungs["logits"]["tolerance"] == 1e-5
    assert rungs["logits"]["lowest_cosine"] > 1 - 1e-9
    assert rungs["ranking"]["kendall_tau"] == 1.0
    assert rungs["ranking"]["pairs"] > 100


def test_a_sentence_transformers_folder_becomes_an_artifact(sentence_artifact: Path) -> None:
    manifest = read_manifest(sentence_artifact)
    assert (manifest.profile, manifest.padding_side) == ("sentence-transformers", "right")
    assert (manifest.pooling, manifest.normalize, manifest.dimensions) == ("cls", False, 64)
    assert manifest.prefixes == {"query": "find: ", "passage": ""}
    assert manifest.max_tokens == 256
    assert manifest.inputs == ["input_ids", "attention_mask", "token_type_ids"]


def test_vectors_that_are_not_normalised_stay_so_when_served(sentence_artifact: Path) -> None:
    embedder = open_embedder(sentence_artifact)
    try:
        embedder.warm_up()
        vectors = embedder.embed(EmbedRequest(["a sheep", "deep learning"], "query")).vectors
    finally:
        embedder.close()
    assert np.all(np.linalg.norm(vectors, axis=1) > 2)


@pytest.mark.heavy
def test_a_symmetric_model_is_proven_and_served_without_input_types(
    tmp_path: Path, exported: Exported
) -> None:
    checkpoint = write_sentence_transformers(tmp_path / "symmetric")
    artifact = exported(checkpoint)
    manifest = verify(artifact, str(checkpoint), None)
    assert manifest.prefixes == {}
    assert all(golden.input_type is None for golden in manifest.vector_goldens)


def test_verify_climbs_all_rungs(
    embed_artifact: Path, tiny_embed_checkpoint: Path, tmp_path: Path
) -> None:
    verify(embed_artifact, str(tiny_embed_checkpoint), None)
    other = write_llama_embedder(tmp_path / "other", seed=1)
    with pytest.raises(ParityFailed) as failed:
        verify(embed_artifact, str(other), None)
    assert failed.value.rung == "logits"


def test_verify_sees_a_vector_golden_that_no_longer_holds(
    embed_artifact: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(embed_artifact, tmp_path / "copy")
    manifest = json.loads((copy / "manifest.json").read_bytes())
    manifest["vector_goldens"][2]["vector"][5] += 0.01
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(GoldenMismatch):
        verify(copy, None, None)


@pytest.mark.parametrize(("fact", "value"), [("pooling", "cls"), ("normalize", False)])
def test_verify_sees_a_manifest_that_claims_otherwise(
    embed_artifact: Path, tiny_embed_checkpoint: Path, tmp_path: Path, fact: str, value: object
) -> None:
    copy = shutil.copytree(embed_artifact, tmp_path / "copy")
    write_manifest(copy, msgspec.structs.replace(read_manifest(copy), **{fact: value}))
    with pytest.raises(ManifestMismatch, match=fact):
        verify(copy, str(tiny_embed_checkpoint), None)


def test_other_prefixes_are_another_version(embed_artifact: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(embed_artifact, tmp_path / "copy")
    changed = msgspec.structs.replace(read_manifest(copy), prefixes={"query": "", "passage": ""})
    write_manifest(copy, changed)
    with pytest.raises(ManifestMismatch, match="version"):
        verify(copy, None, None)


@pytest.mark.parametrize(
    "artifact", ["embed_artifact", pytest.param("half_embed_artifact", marks=pytest.mark.heavy)]
)
@pytest.mark.parametrize("value", ["_pooling", "_length"])
def test_a_graph_that_pools_or_normalises_otherwise_is_caught(
    artifact: str,
    tiny_embed_checkpoint: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    value: str,
) -> None:
    """Otherwise than the witness, which here is what changes."""
    honest = LlamaEmbedder.values

    def tampered(self: LlamaEmbedder, tokens: Tokens) -> Any:
        if value == "_length":
            return 2 * honest(self, tokens)
        self._body._pooling = "cls"
        return honest(self, tokens)

    exported: Path = request.getfixturevalue(artifact)
    monkeypatch.setattr(LlamaEmbedder, "values", tampered)
    with pytest.raises(ParityFailed, match=r"text .* the checkpoint gives .* tolerance") as failed:
        verify(exported, str(tiny_embed_checkpoint), "onnxruntime-cpu")
    assert failed.value.rung == "logits"


def test_a_runtime_that_forgets_the_prefix_fails_at_the_tokens_rung(
    tiny_embed_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = pipeline.make_proof

    def without_prefixes(manifest: Manifest, *rest: Any) -> Any:
        proof = honest(manifest, *rest)
        proof._manifest = msgspec.structs.replace(manifest, prefixes={})  # type: ignore[attr-defined]
        return proof

    monkeypatch.setattr(pipeline, "make_proof", without_prefixes)
    with pytest.raises(ParityFailed, match=r"pair single\[query\]: from token id 1") as failed:
        export(str(tiny_embed_checkpoint), tmp_path / "out", SHORT)
    assert failed.value.rung == "tokens"


def test_random_weights_in_half_precision_pass_by_their_own_rule(
    half_embed_artifact: Path,
) -> None:
    manifest = read_manifest(half_embed_artifact)
    assert manifest.precision == "fp16"
    assert manifest.golden_tolerance >= 5e-3
    report = json.loads((half_embed_artifact / "parity.json").read_bytes())
    assert report["rule"] == "random-weights"
    assert 1e-5 < report["rungs"]["logits"]["max_abs_delta"] < 1e-2


def test_profiles_of_the_other_kind_are_refused(
    tiny_embed_checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(ProfileError, match=r"is for rerankers, but LlamaBidirectionalModel"):
        export(str(tiny_embed_checkpoint), tmp_path / "out", ExportArgs(profile="tiny-rerank-v1"))
    ranker = write_llama(tmp_path / "ranker")
    with pytest.raises(ProfileError, match="is for embedders"):
        export(str(ranker), tmp_path / "out", ExportArgs(profile="tiny-embed-v1"))


def test_the_folders_own_prompts_go_before_the_profiles(
    tmp_path: Path, embed_artifact: Path, ready_graph: ReadyGraph
) -> None:
    ready_graph(embed_artifact)
    prompts = {"query": "find: ", "document": "text: "}
    files = write_sentence_transformers(tmp_path / "files", prompts=prompts)
    llama = write_llama_embedder(tmp_path / "llama")
    (llama / "1_Pooling").mkdir()
    for name in ("modules.json", "1_Pooling/config.json", "config_sentence_transformers.json"):
        shutil.copyfile(files / name, llama / name)
    made = export(str(llama), tmp_path / "out", SHORT)
    assert made.prefixes == {"query": "find: ", "passage": "text: "}
    assert made.origins["prefixes"] == "config_sentence_transformers.json (prompts)"


def test_the_checkpoints_maximum_limits_the_option(
    sentence_checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointRefused, match="256; lower it"):
        export(str(sentence_checkpoint), tmp_path / "out", ExportArgs(max_tokens=300))


def test_the_command_line_speaks_of_texts(
    tiny_embed_checkpoint: Path,
    embed_artifact: Path,
    tmp_path: Path,
    ready_graph: ReadyGraph,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ready_graph(embed_artifact)
    out = str(tmp_path / "out")
    args = ["export", str(tiny_embed_checkpoint), "--profile", "tiny-embed-v1", "--out", out]
    assert main([*args, "--max-tokens", "128"]) == 0
    output = capsys.readouterr().out
    assert "texts, max |Δ component|" in output
    assert read_manifest(tmp_path / "out").model_id == "open-rerank/tiny-embed-v1"
    assert main(["inspect", out]) == 0
    output = capsys.readouterr().out
    assert "vector_goldens   4 texts" in output
    assert "lowest_cosine" in output
