"""One small run of finetune, eval and export, made once a session for all workers."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from transformers.utils import logging

from recipe.cli import main
from recipe.evaluation import drift
from recipe.reporting import charts
from recipe.reporting.markup import element
from recipe.training import curves
from tests.recipe.models.material import LENGTH_TOKENS, write_prep
from tests.shared_artifacts import made_once, session_folder


def write_config(folder: Path, base: Path, embedder: Path) -> None:
    """c.toml in `folder`, with paths relative to it wherever the stages write."""
    (folder / "c.toml").write_text(
        f"""
[finetune]
base_model = "{base}"
train_data_path = "./prep/train_mined.json"
val_data_path = "./prep/val_mined.json"
num_epochs = 3
global_batch_size = 4
local_batch_size = 2
learning_rate = 1e-3
lr_warmup_steps = 2
train_n_passages = 3
rerank_max_length = {LENGTH_TOKENS}
[eval]
base_model = "{base}"
retrieval_model = "{embedder}"
eval_data_path = "./prep/eval_beir"
k_values = [1, 5, 10]
top_k = 12
max_length = {LENGTH_TOKENS}
batch_size = 8
[deploy]
launcher = "process"
detach = true
health_check_interval = 1
health_check_timeout = 600
"""
    )


def leave_undrawn(patch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than all the rest; test_pictures.py covers it."""
    for module in (curves, drift):
        patch.setattr(module, "_picture", lambda *_: b"<svg/>")
    patch.setattr(charts, "chart", lambda title, said, *_: element("figure", f"{title}. {said}"))


@contextmanager
def as_loud_as_before() -> Iterator[None]:
    """The verbosity of transformers, which its Trainer sets for the whole process."""
    level = logging.get_verbosity()
    try:
        yield
    finally:
        logging.set_verbosity(level)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Empty pictures in this process, and transformers' verbosity restored."""
    leave_undrawn(monkeypatch)
    with as_loud_as_before():
        yield


@pytest.fixture(scope="session")
def finished(
    tiny_llama_checkpoint: Path, embed_artifact: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder in which finetune, eval and export were run. Copy it before you change a file."""

    def run(folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)  # what a failed run left
        write_prep(folder / "prep")
        write_config(folder, tiny_llama_checkpoint, embed_artifact)
        with pytest.MonkeyPatch.context() as patch, as_loud_as_before():
            leave_undrawn(patch)
            patch.chdir(folder)
            assert main(["run", "-c", "c.toml", "--from", "finetune", "--to", "export"]) == 0

    return made_once(session_folder(tmp_path_factory) / "recipe", run)


@pytest.fixture
def copied(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that folder, and the working directory of the test."""
    folder = tmp_path / "recipe"
    shutil.copytree(finished, folder, symlinks=True)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def fresh(
    tiny_llama_checkpoint: Path,
    embed_artifact: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """A folder with what prep wrote and nothing else, and the working directory of the test."""
    folder = tmp_path / "fresh"
    write_prep(folder / "prep")
    write_config(folder, tiny_llama_checkpoint, embed_artifact)
    monkeypatch.chdir(folder)
    return folder
