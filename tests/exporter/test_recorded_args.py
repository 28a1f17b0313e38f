"""Artifacts of checkpoints of which no file says a fact: exported with options, verified and made
quantized without them, and shown with the origin of each fact."""

import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from exporter import pipeline
from exporter.cli import main
from exporter.errors import CheckpointRefused, NoWitness
from exporter.inspecting import describe_artifact
from exporter.pipeline import quantize_artifact, verify
from runtime.manifest import read_manifest, write_manifest
from runtime.opening import open_embedder, open_ranker
from runtime.requests import RankRequest
from tests.exporter.conftest import ReadyGraph
from tests.tiny_checkpoints import write_sentence_transformers

TAILED = "Query: {query}\nDocument: {passage}\nRelevant:"
PROFILE = """
id = "somebody/own"
kind = "rank"
template = "{query} {passage}"
adds_bos = true
adds_eos = false
max_tokens = 100
padding_side = "right"
"""
_FILES = ("modules.json", "config_sentence_transformers.json", "sentence_bert_config.json")


def table(directory: Path) -> dict[str, tuple[str, str]]:
    """Fact → value and origin, of what inspect prints first."""
    lines = "\n".join(describe_artifact(directory)).split("\n\n")[0].splitlines()
    assert lines[0].split() == ["fact", "value", "read", "in"]
    rows = [line[17:].rsplit("  ", 1) for line in lines[1:]]
    names = [line[:17].strip() for line in lines[1:]]
    return {name: (value.strip(), at) for name, (value, at) in zip(names, rows, strict=True)}


@pytest.fixture
def bears_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Path, Path], None]:
    """Whether quantize finds the artifact's facts in its checkpoint, which is before it asks."""

    def look(artifact: Path, checkpoint: Path) -> None:
        def asked(*_: object, **__: object) -> None:
            raise NoWitness("every fact was found")

        monkeypatch.setattr(pipeline, "ask_witness", asked)
        with pytest.raises(NoWitness, match="was found"):
            quantize_artifact(
                artifact, tmp_path / "quantized", "cpu-int8-weights", checkpoint=str(checkpoint)
            )
        monkeypatch.undo()

    return look


@pytest.fixture
def wished_ranker(
    tiny_llama_checkpoint: Path, rank_artifact: Path, ready_graph: ReadyGraph, tmp_path: Path
) -> Path:
    """Of a prompt in a file and a profile of one's own, which both are gone."""
    ready_graph(rank_artifact)
    files = tmp_path / "files"
    files.mkdir()
    (files / "prompt.txt").write_text(f"{TAILED}\n")
    (files / "tiny-rerank-v1.toml").write_text(PROFILE)
    args = ["--template", str(files / "prompt.txt")]
    args += ["--profile", str(files / "tiny-rerank-v1.toml")]
    out = tmp_path / "ranker"
    assert main(["export", str(tiny_llama_checkpoint), "--out", str(out), *args]) == 0
    shutil.rmtree(files)
    return out


def test_an_artifact_needs_no_file_that_an_option_named(
    wished_ranker: Path, tiny_llama_checkpoint: Path, bears_out: Callable[[Path, Path], None]
) -> None:
    manifest = verify(wished_ranker, str(tiny_llama_checkpoint), None)
    assert (manifest.model_id, manifest.profile) == ("somebody/own", "tiny-rerank-v1.toml")
    assert (manifest.template, manifest.max_tokens) == (TAILED, 100)
    assert manifest.origins["template"] == "--template prompt.txt"
    with closing(open_ranker(wished_ranker)) as ranker:
        ranker.warm_up()
        assert ranker.info.profile == "tiny-rerank-v1.toml"
        (row,) = ranker.encoder.encode(RankRequest("a", ["AI " * 200], truncate="END")).rows
        tail = (
            ranker.encoder.encode(RankRequest("a", ["AI"], truncate="END")).rows[0].token_ids[-5:]
        )
        assert (len(row), row.token_ids[-5:].tolist()) == (100, tail.tolist())
    bears_out(wished_ranker, tiny_llama_checkpoint)
    found = table(wished_ranker)
    assert found["template"] == (repr(TAILED), "--template prompt.txt")
    assert found["padding_side"] == ("right", "the profile tiny-rerank-v1.toml")
    assert found["max_tokens"] == ("100", "the profile tiny-rerank-v1.toml")
    assert found["profile"] == ("tiny-rerank-v1.toml", "--profile")
    assert found["pooling"] == ("avg", "config.json (pooling)")
    assert found["activation"] == ("sigmoid", "sentence-transformers' default for one label")
    assert found["special_tokens"][0] == "bos 0, eos none, pad 1"
    assert found["token_types"] == ("none", "the architecture")


@pytest.fixture
def bare_checkpoint(tmp_path: Path) -> Path:
    """A BERT of which no file says how states become a vector."""
    folder = write_sentence_transformers(tmp_path / "bare", prompts={"query": "", "document": ""})
    for name in _FILES:
        (folder / name).unlink()
    shutil.rmtree(folder / "1_Pooling")
    return folder


@pytest.mark.heavy
def test_a_body_alone_becomes_an_embedder(
    bare_checkpoint: Path,
    tmp_path: Path,
    bears_out: Callable[[Path, Path], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    command = ["export", str(bare_checkpoint), "--out", str(out), "--max-tokens", "64"]
    assert main(command) == 1
    assert "name it as --pooling" in capsys.readouterr().err
    args = ["--pooling", "mean", "--prefix", "query=find: ", "passage=text= "]
    assert main([*command, *args]) == 0
    assert "proven against sentence-transformers " in capsys.readouterr().out
    manifest = verify(out, str(bare_checkpoint), None)
    assert (manifest.pooling, manifest.normalize) == ("avg", False)
    assert manifest.prefixes == {"query": "find: ", "passage": "text= "}
    bears_out(out, bare_checkpoint)
    assert main(["inspect", str(out)]) == 0
    assert "--pooling" in capsys.readouterr().out
    bare = "sentence-transformers' default for a folder without modules.json"
    found = table(out)
    assert found["prefixes"][1] == "--prefix"
    assert found["pooling"] == ("avg", "--pooling")
    assert found["normalize"] == ("False", bare)
    assert found["dimensions"] == ("64", "config.json (hidden_size)")
    assert found["max_tokens"] == ("64", "--max-tokens")
    assert found["lower_case"][0] == "True"
    assert found["token_types"][0] == "all 0"
    with closing(open_embedder(out)) as embedder:
        embedder.warm_up()
    # A folder that says otherwise by now bears the artifact out no longer.
    written = write_sentence_transformers(tmp_path / "written", pooling="cls")
    with pytest.raises(CheckpointRefused, match=r"--pooling avg, but 1_Pooling/config\.json"):
        verify(out, str(written), None)


def test_an_artifact_without_origins_is_shown_all_the_same(
    rank_artifact: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(rank_artifact, tmp_path / "copy")
    write_manifest(copy, msgspec.structs.replace(read_manifest(copy), origins={}))
    shutil.rmtree(copy / "tokenizer")
    found = table(copy)
    assert found["pooling"] == ("avg", "not recorded")
    assert found["lower_case"] == ("unknown: no tokenizer/tokenizer.json", "not recorded")


@pytest.mark.parametrize(
    "args",
    [
        ["--pooling", "max"],
        ["--prefix", "document=a"],
        ["--prefix", "query"],
        ["--prefix"],
        ["--profile", "no-such"],
        ["--template"],
    ],
)
def test_an_option_of_another_form_is_wrong_usage(
    args: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["export", "somewhere", "--out", "x", *args])
    assert stopped.value.code == 2
    assert args[0] in capsys.readouterr().err
