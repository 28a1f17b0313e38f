"""What may lie in a directory, and what the runtime says about it."""

import json
import logging
from pathlib import Path

import msgspec
import pytest
from tokenizers import Tokenizer

from runtime.engines import open_engine
from runtime.engines.ort import OrtEngine
from runtime.errors import (
    ArtifactError,
    EngineUnavailable,
    FileChanged,
    GoldenMismatch,
    ManifestError,
)
from runtime.manifest import (
    Golden,
    Manifest,
    SpecialTokens,
    hash_file,
    read_manifest,
    unproven_manifest,
    write_manifest,
)
from runtime.opening import open_ranker
from runtime.ranker import Ranker
from runtime.requests import RankRequest
from tests.runtime.conftest import write_bare_directory

GOLDEN = ("why", "because")


def finish(directory: Path, *, proven_on: str = "onnxruntime-cpu", **changes: object) -> Manifest:
    """Turn a bare directory into an artifact with hashes and one golden."""
    manifest = unproven_manifest(
        "tiny-rerank-v1",
        target="cpu-fp32",
        version="v",
        precision="fp32",
        pad_id=0,
        inputs=["input_ids", "attention_mask"],
        outputs=["logits"],
    )
    ranker = open_ranker(directory, manifest=manifest)
    row = ranker.encoder.encode(RankRequest(GOLDEN[0], [GOLDEN[1]])).rows[0]
    logit = float(ranker.rank(RankRequest(GOLDEN[0], [GOLDEN[1]])).logits[0])
    ranker.close()
    (directory / "parity.json").write_text(json.dumps({"schema": 1, "engine": proven_on}))
    files = [p for p in directory.rglob("*") if p.is_file()]
    manifest = msgspec.structs.replace(
        manifest,
        files={str(p.relative_to(directory)): hash_file(p) for p in files},
        goldens=[
            Golden(
                query=GOLDEN[0], passage=GOLDEN[1], token_ids=row.token_ids.tolist(), logit=logit
            )
        ],
        golden_tolerance=1e-4,
        witness="a loader",
    )
    manifest = msgspec.structs.replace(manifest, **changes)
    write_manifest(directory, manifest)
    return manifest


@pytest.fixture
def artifact(bare_directory: Path) -> Path:
    finish(bare_directory)
    return bare_directory


def opened(directory: Path, **options: object) -> Ranker:
    ranker = open_ranker(directory, **options)  # type: ignore[arg-type]
    ranker.close()
    return ranker


def test_an_artifact_opens_and_reproduces_its_golden(artifact: Path) -> None:
    ranker = open_ranker(artifact)
    ranker.warm_up()
    assert ranker.info.proven
    assert ranker.info.engine == "onnxruntime-cpu"
    assert ranker.info.model_id == "open-rerank/tiny-rerank-v1"
    ranker.close()


def test_an_artifact_can_be_moved(artifact: Path, tmp_path: Path) -> None:
    moved = artifact.rename(tmp_path / "elsewhere")
    open_ranker(moved).close()


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer/tokenizer.json"])
def test_a_changed_byte_names_the_file(artifact: Path, name: str) -> None:
    raw = bytearray((artifact / name).read_bytes())
    raw[len(raw) // 2] ^= 1
    (artifact / name).write_bytes(raw)
    with pytest.raises(FileChanged, match=name):
        open_ranker(artifact)


def test_a_missing_file_is_named(artifact: Path) -> None:
    (artifact / "tokenizer" / "tokenizer.json").unlink()
    with pytest.raises(FileChanged, match=r"tokenizer\.json"):
        open_ranker(artifact)


def test_an_engine_that_no_longer_gives_the_golden_is_refused(artifact: Path) -> None:
    manifest = read_manifest(artifact)
    golden = msgspec.structs.replace(manifest.goldens[0], logit=manifest.goldens[0].logit + 0.01)
    write_manifest(artifact, msgspec.structs.replace(manifest, goldens=[golden]))
    ranker = open_ranker(artifact)
    with pytest.raises(GoldenMismatch, match="tolerance"):
        ranker.warm_up()
    ranker.close()


def test_a_tokenizer_that_no_longer_gives_the_golden_is_refused(artifact: Path) -> None:
    manifest = read_manifest(artifact)
    golden = msgspec.structs.replace(manifest.goldens[0], token_ids=[1, 2, 3])
    write_manifest(artifact, msgspec.structs.replace(manifest, goldens=[golden]))
    ranker = open_ranker(artifact)
    with pytest.raises(GoldenMismatch, match="token"):
        ranker.warm_up()
    ranker.close()


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (b"{", "cannot be used"),
        (b'{"schema": 99}', "schema 99, wanted 2"),
        (b'{"schema": 1}', "missing required field"),
        (b"[]", "cannot be used"),
        (b'{"schema": 1, "kind": "\xff"}', "cannot be used"),
    ],
)
def test_a_manifest_that_cannot_be_used_says_why(artifact: Path, text: bytes, match: str) -> None:
    (artifact / "manifest.json").write_bytes(text)
    with pytest.raises(ManifestError, match=match):
        open_ranker(artifact)


def test_a_rerankers_manifest_from_before_there_were_embedders_opens(artifact: Path) -> None:
    path = artifact / "manifest.json"
    fields = json.loads(path.read_text())
    del fields["prefixes"], fields["vector_goldens"]
    path.write_text(json.dumps(fields))
    assert opened(artifact).info.proven


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname"])
def test_files_outside_the_artifact_are_refused(artifact: Path, name: str) -> None:
    manifest = read_manifest(artifact)
    write_manifest(artifact, msgspec.structs.replace(manifest, files={name: "sha256:0"}))
    with pytest.raises(ManifestError, match="outside"):
        open_ranker(artifact)


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer/tokenizer.json", "parity.json"])
def test_a_file_without_a_recorded_hash_is_refused(artifact: Path, name: str) -> None:
    manifest = read_manifest(artifact)
    files = {path: digest for path, digest in manifest.files.items() if path != name}
    write_manifest(artifact, msgspec.structs.replace(manifest, files=files))
    with pytest.raises(ManifestError, match=name):
        open_ranker(artifact)


def test_an_artifact_without_goldens_is_refused(bare_directory: Path) -> None:
    finish(bare_directory, goldens=[])
    with pytest.raises(ManifestError, match="goldens"):
        open_ranker(bare_directory)


def test_weights_beside_the_graph_must_be_recorded(artifact: Path) -> None:
    (artifact / "model.onnx.data").write_bytes(b"weights")
    with pytest.raises(ManifestError, match=r"model\.onnx\.data"):
        open_ranker(artifact)


@pytest.mark.parametrize("pad", [256, -1, 1 << 40])
def test_a_token_to_pad_with_that_the_tokenizer_does_not_have(
    bare_directory: Path, pad: int
) -> None:
    finish(bare_directory, special_tokens=SpecialTokens(bos=None, eos=None, pad=pad))
    with pytest.raises(ManifestError, match=f"pads with token {pad}, .* from 0 to 255"):
        open_ranker(bare_directory)


@pytest.mark.parametrize(
    "changes",
    [{"kind": "embed"}, {"outputs": ["embeddings"]}, {"template": "no places"}, {"goldens": []}],
)
def test_a_failed_open_closes_its_engine(
    bare_directory: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object]
) -> None:
    finish(bare_directory, **changes)
    engines: list[OrtEngine] = []
    monkeypatch.setattr(OrtEngine, "close", lambda self: engines.append(self))
    with pytest.raises(ArtifactError):
        open_ranker(bare_directory)
    assert len(engines) == 1


def test_inputs_that_contradict_the_graph_are_refused(bare_directory: Path) -> None:
    finish(bare_directory, inputs=["input_ids"])
    with pytest.raises(ManifestError, match="attention_mask"):
        open_ranker(bare_directory)


def test_a_triton_finds_the_places_of_a_packed_graph_by_itself(
    bare_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish(bare_directory, inputs=["input_ids", "attention_mask", "token_places"])
    with pytest.raises(ManifestError, match="token_places"):
        open_ranker(bare_directory)
    monkeypatch.setattr(OrtEngine, "device", "remote")
    open_ranker(bare_directory).close()


def test_an_embedder_is_not_a_reranker(bare_directory: Path) -> None:
    finish(bare_directory, kind="embed")
    with pytest.raises(ArtifactError, match="embed"):
        open_ranker(bare_directory)


def test_limits_may_be_lowered_only(artifact: Path) -> None:
    assert opened(artifact, max_tokens=100, max_rows=2).info.max_tokens == 100
    with pytest.raises(ArtifactError, match="8192"):
        open_ranker(artifact, max_tokens=9000)


def test_a_bare_directory_opens_and_says_what_it_guessed(
    bare_directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        info = opened(bare_directory).info
    assert not info.proven
    assert info.profile == "llama-nemotron-rerank-1b-v2"
    for guess in ("profile", "question:{query}", "8192 tokens", "padding left", "auto chose"):
        assert guess in caplog.text


@pytest.mark.parametrize(
    ("config", "pad"),
    [
        (b'{"pad_token": "<pad>"}', 256),
        (b'{"pad_token": {"content": "<pad>", "lstrip": false}, "eos_token": "</s>"}', 256),
        (b'{"eos_token": "</s>"}', 257),
        # What is odd in one takes nothing from the other.
        (b'{"pad_token": "<pad>", "eos_token": ["</s>"]}', 256),
        (b'{"pad_token": "<pad>", "eos_token": 2}', 256),
        (b'{"pad_token": "<pad>", "eos_token": {"id": 2}}', 256),
        (b'{"pad_token": "<pad>", "eos_token": "\xff"}', 256),
        (b'{"\xff": "\xff", "pad_token": "<pad>"}', 256),
        (b'{"pad_token": ["<pad>"], "eos_token": "</s>"}', 257),
        (b'{"pad_token": "unknown", "eos_token": "</s>"}', 257),
        # Nothing is known.
        (b'{"pad_token": null, "eos_token": 2}', 0),
        (b'["<pad>"]', 0),
        (b'{"pad_token": "<pad>"', 0),
        (b'{"pad_token": "<pad>", "eos_token": ' + b"[" * 100_000, 0),
    ],
)
def test_the_token_that_a_bare_directory_pads_with(
    bare_directory: Path, caplog: pytest.LogCaptureFixture, config: bytes, pad: int
) -> None:
    path = bare_directory / "tokenizer" / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.add_special_tokens(["<pad>", "</s>"])
    tokenizer.save(str(path))
    path.with_name("tokenizer_config.json").write_bytes(config)
    with caplog.at_level(logging.WARNING):
        opened(bare_directory)
    assert f"padding left with id {pad}" in caplog.text.splitlines()[-1]


def test_a_bare_directory_with_token_types_is_a_joined_pair(tmp_path: Path) -> None:
    directory = write_bare_directory(tmp_path / "bert", "token_type_ids")
    assert opened(directory).info.profile == "bert-cross-encoder"


def test_a_bare_directory_with_a_named_profile(bare_directory: Path) -> None:
    assert opened(bare_directory, profile="open-rerank/tiny-rerank-v1").info.profile == (
        "tiny-rerank-v1"
    )


def test_a_profile_cannot_overrule_a_manifest(artifact: Path) -> None:
    with pytest.raises(ManifestError, match="tiny-rerank-v1"):
        open_ranker(artifact, profile="bert-cross-encoder")


def test_another_target_than_the_artifacts_is_refused(artifact: Path) -> None:
    assert opened(artifact, target="cpu-fp32").info.target == "cpu-fp32"
    with pytest.raises(ManifestError, match="--target cuda-fp16"):
        open_ranker(artifact, target="cuda-fp16")


def test_a_named_target_decides_the_engine_of_a_bare_directory(bare_directory: Path) -> None:
    assert opened(bare_directory, target="cpu-fp32").info.target == "cpu-fp32"
    with pytest.raises(EngineUnavailable, match="onnxruntime-cuda needs"):
        open_ranker(bare_directory, target="cuda-fp16")


def test_an_engine_other_than_the_proven_one_is_logged(
    bare_directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    finish(bare_directory, proven_on="onnxruntime-cuda", target="cuda-fp16")
    assert opened(bare_directory, engine="auto").info.engine == "onnxruntime-cpu"
    assert "proven on engine onnxruntime-cuda, runs on onnxruntime-cpu" in caplog.text


@pytest.mark.parametrize("text", ["{", "{}", '{"schema": 3, "engine": "onnxruntime-cpu"}'])
def test_a_parity_report_that_cannot_be_read_is_refused(artifact: Path, text: str) -> None:
    (artifact / "parity.json").write_text(text)
    manifest = read_manifest(artifact)
    files = {**manifest.files, "parity.json": hash_file(artifact / "parity.json")}
    write_manifest(artifact, msgspec.structs.replace(manifest, files=files))
    with pytest.raises(ManifestError, match=r"parity\.json"):
        open_ranker(artifact)


@pytest.mark.parametrize("content", [None, "readme.txt"])
def test_a_directory_without_a_model_says_what_is_wanted(
    tmp_path: Path, content: str | None
) -> None:
    directory = tmp_path / "empty"
    if content:
        directory.mkdir()
        (directory / content).write_text("hello")
    with pytest.raises(ArtifactError, match=r"wanted|rerank-export"):
        open_ranker(directory)


def test_missing_hardware_is_an_error_and_auto_goes_on(artifact: Path) -> None:
    with pytest.raises(EngineUnavailable, match="onnxruntime-cuda needs"):
        open_ranker(artifact, engine="onnxruntime-cuda")
    assert opened(artifact, engine="auto").info.engine == "onnxruntime-cpu"


def test_an_unknown_engine_lists_the_known_ones(artifact: Path) -> None:
    with pytest.raises(EngineUnavailable, match="onnxruntime-cpu"):
        open_engine("tpu", artifact)


def test_a_graph_that_is_no_graph(bare_directory: Path) -> None:
    (bare_directory / "model.onnx").write_bytes(b"garbage")
    with pytest.raises(ArtifactError, match=r"model\.onnx"):
        open_ranker(bare_directory)
