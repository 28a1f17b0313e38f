"""Which checkpoints of the Trainer are removed, and that none is left half removed."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from recipe.cli import main
from recipe.training.trainer import Reporter
from tests.recipe.models.test_finetune import CHECKPOINTS, losses, weights

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.mark.heavy
def test_a_kill_while_an_old_checkpoint_is_removed_leaves_no_half_of_one(
    finished: Path, fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = CHECKPOINTS / "trainer"

    def dies(path: Path, *_: object, **__: object) -> None:
        (Path(path) / "optimizer.pt").unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", dies)
        assert main(["finetune", "-c", "c.toml"]) == 130
    whole = {path.parent for path in trained.glob("checkpoint-*/whole")}
    assert whole
    assert all((path / "optimizer.pt").exists() for path in whole)
    assert main(["finetune", "-c", "c.toml"]) == 0
    assert losses(fresh) == losses(finished)
    assert weights(fresh) == weights(finished)


def test_the_best_checkpoint_and_the_last_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the best is older, the Trainer would remove the newest that is marked."""
    for step in (3, 6, 9):
        (tmp_path / f"checkpoint-{step}").mkdir()
    for step in (3, 6):
        (tmp_path / f"checkpoint-{step}" / "whole").touch()
    arguments = SimpleNamespace(
        output_dir=str(tmp_path), distributed_state=SimpleNamespace(wait_for_everyone=list)
    )
    state = SimpleNamespace(is_world_process_zero=True, global_step=9, best_global_step=3)

    def dies(path: Path) -> None:
        assert not (path / "whole").exists()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", dies)
        with pytest.raises(KeyboardInterrupt):
            Reporter(tmp_path, print).on_save(arguments, state, None)
    Reporter(tmp_path, print).on_save(arguments, state, None)
    kept = {str(path.relative_to(tmp_path)) for path in tmp_path.glob("checkpoint-*/whole")}
    assert kept == {"checkpoint-3/whole", "checkpoint-9/whole"}
    assert not (tmp_path / "checkpoint-6").exists()
