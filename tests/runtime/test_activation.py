"""The activation that a checkpoint was saved with, and what it makes of logits."""

import json
import logging
import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.activation import saved_activation
from runtime.errors import ArtifactError, ManifestError
from runtime.manifest import SCHEMA, read_manifest
from runtime.opening import open_model, open_ranker
from runtime.postprocess import Activation, relevance
from runtime.requests import RankRequest

SIGMOID, IDENTITY = "torch.nn.modules.activation.Sigmoid", "torch.nn.modules.linear.Identity"
OLD = "sbert_ce_default_activation_function"


@pytest.mark.parametrize(
    ("config", "sentence", "wanted"),
    [
        ({}, {}, None),
        ({"sentence_transformers": None}, {"activation_fn": None}, None),
        ({"sentence_transformers": {"version": "4.1.0"}}, {"prompts": {}}, None),
        ({"sentence_transformers": {"activation_fn": IDENTITY}}, {}, "identity"),
        ({"sentence_transformers": {"activation_fn": SIGMOID}}, {}, "sigmoid"),
        ({"sentence_transformers": {"activation_fn": "torch.nn.Identity"}}, {}, "identity"),
        ({OLD: IDENTITY}, {}, "identity"),
        ({OLD: SIGMOID}, {}, "sigmoid"),
        ({OLD: None}, {"activation_fn": IDENTITY}, "identity"),
        # What a newer version wrote goes before what an older one left.
        ({OLD: IDENTITY, "sentence_transformers": {"activation_fn": SIGMOID}}, {}, "sigmoid"),
        (
            {"sentence_transformers": {"activation_fn": SIGMOID}},
            {"activation_fn": IDENTITY},
            "identity",
        ),
    ],
)
def test_every_place_is_read_as_sentence_transformers_reads_them(
    config: dict[str, Any], sentence: dict[str, Any], wanted: Activation | None
) -> None:
    found = saved_activation(config, sentence)
    assert (None if found is None else found[0]) == wanted


@pytest.mark.parametrize("name", ["torch.nn.modules.activation.Tanh", "mine.Sigmoid", 5, "", []])
def test_another_activation_is_refused_by_name(name: Any) -> None:
    for config, sentence, place in (
        ({"sentence_transformers": {"activation_fn": name}}, {}, "config.json"),
        ({OLD: name}, {}, "config.json"),
        ({}, {"activation_fn": name}, "config_sentence_transformers.json"),
    ):
        with pytest.raises(ValueError, match=f"^{place} has ") as refused:
            saved_activation(config, sentence)
        assert repr(name) in str(refused.value)
        assert SIGMOID in str(refused.value)
        assert IDENTITY in str(refused.value)
    with pytest.raises(ValueError, match="wanted an object"):
        saved_activation({"sentence_transformers": name}, {})


def test_relevance_is_what_the_activation_makes_of_the_logits() -> None:
    logits = np.asarray([-2.5, 0.0, 31.0], np.float32)
    assert relevance(logits, "identity").tolist() == [-2.5, 0.0, 31.0]
    assert relevance(logits, "sigmoid").tolist() == relevance(logits).tolist()
    assert relevance(logits)[1] == 0.5


def edited(artifact: Path, place: Path, **changes: Any) -> Path:
    """A copy of the artifact with these facts; "absent" takes one out."""
    shutil.copytree(artifact, place)
    manifest = json.loads((place / "manifest.json").read_bytes()) | changes
    kept = {name: value for name, value in manifest.items() if value != "absent"}
    (place / "manifest.json").write_text(json.dumps(kept))
    return place


def test_rankings_know_the_artifacts_activation(rank_artifact: Path, tmp_path: Path) -> None:
    assert read_manifest(rank_artifact).activation == "sigmoid"
    for place, wanted in (
        (rank_artifact, "sigmoid"),
        (edited(rank_artifact, tmp_path / "identity", activation="identity"), "identity"),
    ):
        with closing(open_ranker(place)) as ranker:
            found = ranker.rank(RankRequest("who", ["one", "another"]))
        assert found.activation == wanted
        assert found.relevance().tolist() == relevance(found.logits, wanted).tolist()


def test_schema_1_is_served_with_a_warning(
    rank_artifact: Path, embed_artifact: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for artifact in (rank_artifact, embed_artifact):
        place = edited(artifact, tmp_path / artifact.name, schema=1, activation="absent")
        caplog.clear()
        with caplog.at_level(logging.WARNING), closing(open_model(place)) as model:
            model.warm_up()
        (message,) = (r.getMessage() for r in caplog.records if "schema 1" in r.getMessage())
        assert "not witnessed" in message
        assert "`rerank-export verify --checkpoint`" in message
        assert read_manifest(place).activation == ("sigmoid" if artifact is rank_artifact else None)


def test_the_present_schema_is_served_without_one(
    rank_artifact: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert read_manifest(rank_artifact).schema == SCHEMA == 2
    with caplog.at_level(logging.WARNING):
        open_model(rank_artifact).close()
    assert caplog.records == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": 3}, "schema 3, wanted 2"),
        ({"schema": 0}, "schema 0, wanted 2"),
        ({"schema": "absent"}, "schema None, wanted 2"),
        ({"activation": "absent"}, "has no activation"),
        ({"activation": None}, "has no activation"),
        ({"activation": "tanh"}, "tanh"),
    ],
)
def test_a_manifest_that_says_it_otherwise_is_refused(
    rank_artifact: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ManifestError, match=message):
        read_manifest(edited(rank_artifact, tmp_path / "rank", **changes))


def bare(artifact: Path, place: Path) -> Path:
    """What NIM_CUSTOM_MODEL mounts."""
    shutil.copytree(artifact, place)
    (place / "manifest.json").unlink()
    return place


def test_a_bare_directory_says_its_activation_in_the_checkpoint_s_files(
    rank_artifact: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = bare(rank_artifact, tmp_path / "rank")
    cases = (
        (None, None, "relevance by sigmoid (no file names another)", "sigmoid"),
        ({OLD: IDENTITY}, None, "relevance by identity (saved with the checkpoint)", "identity"),
        ({OLD: IDENTITY}, {"activation_fn": SIGMOID}, "by sigmoid (saved", "sigmoid"),
    )
    for config, sentence, message, wanted in cases:
        for name, content in (("config", config), ("config_sentence_transformers", sentence)):
            if content is not None:
                (place / f"{name}.json").write_text(json.dumps(content))
        caplog.clear()
        with caplog.at_level(logging.WARNING), closing(open_ranker(place)) as ranker:
            assert ranker.rank(RankRequest("who", ["one"])).activation == wanted
        assert message in caplog.text
    for content, message in (
        (b'{"activation_fn": "torch.nn.Tanh"}', "torch.nn.Tanh"),
        (b"{", "config_sentence_transformers.json cannot be used"),
        (b"[]", "config_sentence_transformers.json cannot be used"),
    ):
        (place / "config_sentence_transformers.json").write_bytes(content)
        with pytest.raises(ArtifactError, match=message):
            open_ranker(place)
    (place / "config_sentence_transformers.json").unlink()
    (place / "config_sentence_transformers.json").symlink_to("/dev/zero")
    with pytest.raises(ArtifactError, match=r"cannot read config_sentence_transformers\.json"):
        open_ranker(place)


def test_an_embedders_directory_is_not_asked_for_one(embed_artifact: Path, tmp_path: Path) -> None:
    place = bare(embed_artifact, tmp_path / "embed")
    (place / "config.json").write_text(json.dumps({OLD: "torch.nn.Tanh"}))
    open_model(place).close()
