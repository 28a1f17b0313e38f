"""NVIDIA's own default.yaml of each stage, unchanged: what they become here, and what is said."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from recipe.config import STAGE_NAMES, Recipe
from recipe.config_files import load
from recipe.errors import BadConfig

FILES = Path(__file__).parent / "nvidia"
# The keys of their files that say nothing here; the rest must arrive.
IDLE = {
    "sdg": {"run", "artifact_path", "log_level", "resume"},
    "prep": {"run", "artifact_recipe", "attn_implementation"},
    "finetune": {"run", "flash_adamw_master_weight_bits"},
    "eval": {"run", "retrieval_batch_size", "nim_truncate"},
    "export": {"run", "calibration_query"},
    "deploy": {"keep_failed_container"},
}


def in_place(value: Any) -> Any:
    """The value that a run without NEMO_RUN_DIR sees."""
    return value.replace("${oc.env:NEMO_RUN_DIR,.}", ".") if isinstance(value, str) else value


@pytest.mark.parametrize("stage", STAGE_NAMES)
def test_a_file_of_nvidia_is_taken_as_it_is(stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NEMO_RUN_DIR", raising=False)
    file, lines = FILES / f"{stage}.yaml", list[str]()
    theirs = yaml.safe_load(file.read_text())
    found = msgspec.to_builtins(getattr(load(str(file), [stage], log=lines.append), stage))
    arrived = {key: value for key, value in theirs.items() if key not in IDLE[stage]}
    assert {key: found.get(key, "no such key") for key in arrived} == {
        key: in_place(value) for key, value in arrived.items()
    }
    assert set(lines[0].partition("here: ")[2].split(", ")) == IDLE[stage]
    # And their values are our defaults, where both have the key.
    usual = msgspec.to_builtins(getattr(Recipe(), stage))
    differing = {key for key in arrived if found[key] != usual[key]}
    assert differing == ({"dataset_name"} if stage == "sdg" else set())


def test_their_variable_moves_every_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEMO_RUN_DIR", str(tmp_path))
    theirs = load(str(FILES / "export.yaml"), ["export"]).export
    assert theirs.model_path.startswith(f"{tmp_path}/output/rerank/stage2_finetune")
    # The defaults too, so that stages with and without a file meet.
    usual = load("default", STAGE_NAMES)
    assert usual.export == theirs
    assert usual.eval.output_dir == f"{tmp_path}/output/rerank/stage3_eval"
    assert usual.deploy.model_dir == theirs.onnx_export_path


def test_a_file_over_theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPLATE_OF_MINE", "${prefix} {query}")
    (tmp_path / "theirs.yaml").write_text((FILES / "finetune.yaml").read_text())
    mine = tmp_path / "mine.yaml"
    mine.write_text(
        "defaults: theirs\n"
        "seed: 7\n"
        "num_epochs: ${seed}\n"
        "global_batch_size: ${oc.env:NONE_SET,16}\n"
        "base_model: org/${lr_decay_style}-${seed}\n"
    )
    found = load(str(mine), ["finetune"]).finetune
    assert (found.seed, found.num_epochs, found.global_batch_size) == (7, 7, 16)
    assert found.base_model == "org/cosine-7"
    assert found.lr_warmup_steps == 100


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: ${oc.env:NONE_SET}", "NONE_SET, which is not set; .* default"),
        ("seed: ${auto_mount:x}", "no other resolver of OmegaConf"),
        ("seed: ${nowhere}", "names no key of this file"),
        ("seed: ${num_epochs}\nnum_epochs: ${seed}", "go round"),
        ("defaults: mine", "the defaults of configuration files go round"),
        ("defaults: gone", "no readable file"),
        ("defaults: {a: b}", "wanted names of files"),
        ("groups_json: [a.json]", "found groups_json = .*wanted None: equal questions"),
        ("conversion_seed: 3", "wanted 42: set seed=N"),
        ("artifact_rezipe: embed", "prep has no key 'artifact_rezipe'; `rerank prep -d`"),
        ("train_n_passages: 3", "prep has no key 'train_n_passages', which finetune has"),
    ],
)
def test_what_cannot_be_resolved_or_matters_is_refused(
    tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(BadConfig, match=message):
        load(str(tmp_path / "mine.yaml"), ["prep"])


def test_lists_with_commas_and_idle_keys_on_the_command_line() -> None:
    lines: list[str] = []
    given = ["file_extensions=.txt,.md", "resume=never", "log_level=DEBUG"]
    assert load("default", ["sdg"], given, lines.append).sdg.file_extensions == [".txt", ".md"]
    assert lines == [
        f"the command line: without effect here: {key}" for key in ("resume", "log_level")
    ]
