"""What is wrong with a run is said before its first stage begins.

Each stage checks its own values, and its inputs where they are there; here the stages are held
against each other: what one reads is what another one writes, and settings that must be the same.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from recipe.config import STAGE_NAMES, FinetuneConfig, Recipe
from recipe.errors import BadConfig, BadInput
from recipe.evaluation.labelled import open_collection
from recipe.evaluation.overlap import measured_with
from recipe.fixed import refuse_other_values
from recipe.preparation.files import EVAL_FOLDER
from recipe.stage import Input, Stage, require_inputs
from recipe.training.examples import read_examples
from recipe.training.groups import Group, read_groups
from recipe.training.job import validation_file
from recipe.training.trained_on import TrainedOn, trained_on

_ADVICE = "`rerank prep` with data=… and hold_out_path=… holds them out"
_SHOWN = 100
# Stages whose prompt must be the same.
_PROMPTED = ("finetune", "eval", "export")


def check_run(stages: Sequence[Stage[Any]], recipe: Recipe, *, dry: bool) -> None:
    """Raise BadConfig or BadInput for the first thing that would stop a stage later.

    A `dry` run lets stand what other commands make or the environment gives: outputs of stages that
    are not chosen, keys, Docker, checkpoints on the hub.
    """
    names = [stage.name for stage in stages]
    for stage in stages:
        settings = getattr(recipe, stage.name)
        refuse_other_values(settings)
        stage.check_values(settings)
    for sentence in contradictions(recipe, names):
        raise BadConfig(sentence)
    for number, stage in enumerate(stages):
        settings = getattr(recipe, stage.name)
        inputs = stage.inputs(settings)
        later = [one for one in inputs if _made_later(one, recipe, names[:number])]
        absent = [one for one in inputs if one not in later and not one.path.exists()]
        usual = [one for one in absent if dry and _made_later(one, recipe, STAGE_NAMES)]
        if len(usual) < len(absent):
            require_inputs(stage, settings, {one.path for one in [*later, *usual]})
        # The first stage of a run checks itself at once, and with names of the hub pinned.
        if not later and not absent and (dry or number):
            stage.check(settings)
        if not dry and number:
            stage.check_machine(settings)
    _refuse_trained_on(recipe, names)


def contradictions(recipe: Recipe, names: Sequence[str]) -> Iterator[str]:
    """What the chosen stages' settings say against each other."""
    prep, finetune = recipe.prep, recipe.finetune
    made = Path(finetune.train_data_path).resolve().is_relative_to(prep.home.resolve())
    needed = finetune.train_n_passages - 1
    mined = prep.hard_negatives_to_mine
    if {"prep", "finetune"} <= {*names} and made and prep.mining != "none" and mined < needed:
        yield (
            f"found prep.hard_negatives_to_mine = {mined} and finetune.train_n_passages = "
            f"{finetune.train_n_passages}, wanted at least {needed} negatives: raise one or lower "
            "the other"
        )
    own = prep.home / EVAL_FOLDER
    kept_out = {own.resolve(), *(Path(one).resolve() for one in prep.hold_out_path)}
    leaking = [(key, path) for key, path in _measured(recipe) if path.resolve() not in kept_out]
    if {"prep", "finetune", "eval"} <= {*names} and made and leaking:
        found = " and ".join(f"{key} = {path}" for key, path in leaking)
        wanted = ",".join([*prep.hold_out_path, *(str(path) for _, path in leaking)])
        yield (
            f"found {found}, which prep does not make (it makes {own}) and would not keep out of "
            f"training; set prep.hold_out_path={wanted}"
        )
    prompts = {name: getattr(recipe, name).prompt_template for name in names if name in _PROMPTED}
    if len(set(prompts.values())) > 1:
        said = ", ".join(f"{name}.prompt_template = {text!r}" for name, text in prompts.items())
        yield f"found {said}; wanted the same in finetune, eval and export"
    trained, asked = finetune.rerank_max_length, recipe.eval.max_length
    exported = Path(recipe.export.model_path).resolve()
    ours = exported.is_relative_to(Path(finetune.checkpoint_dir).resolve())
    if {"finetune", "eval", "export"} <= {*names} and ours and asked > trained:
        yield (
            f"found eval.max_length = {asked} and finetune.rerank_max_length = {trained}, wanted "
            "at most the same in eval: the artifact takes no longer pairs than were trained"
        )


def _measured(recipe: Recipe) -> list[tuple[str, Path]]:
    """The evaluation sets that eval measures with, each behind its setting."""
    found = [("eval_data_path", recipe.eval.eval_data_path)]
    if recipe.eval.guard_data_path is not None:
        found.append(("guard_data_path", recipe.eval.guard_data_path))
    return [(key, Path(path)) for key, path in found]


def _made_later(wanted: Input, recipe: Recipe, makers: Sequence[str]) -> bool:
    """Whether the input is what one of the stages `makers` writes with these settings."""
    if wanted.made_by not in makers:
        return False
    home: Path = getattr(recipe, str(wanted.made_by)).home
    return wanted.path.resolve().is_relative_to(home.resolve())


def _refuse_trained_on(recipe: Recipe, names: Sequence[str]) -> None:
    """Refuse to train on what the same run measures with, from files that are there.

    What prep makes in this run knows its evaluation set (`contradictions`).
    """
    there = [(key, path) for key, path in _measured(recipe) if path.exists()]
    if not {"finetune", "eval"} <= {*names} or not there:
        return
    groups, held_out = _known(recipe, names)
    if not (groups or held_out):
        return
    learned = trained_on(groups, held_out)
    for key, path in there:
        _refuse_overlap(f"{key} = {path}", recipe.finetune, learned, path)


def _refuse_overlap(
    measured: str, settings: FinetuneConfig, learned: TrainedOn, path: Path
) -> None:
    train = f"train_data_path = {settings.train_data_path}"
    collection = open_collection(path)
    found = measured_with(learned, collection)
    if found.questions:
        raise BadInput(
            f"{len(found.questions)} of {len(collection.queries)} questions of {measured} stand in "
            f"{train} (first: {found.questions[0]!r}): figures would say nothing; {_ADVICE}"
        )
    if found.answers:
        raise BadInput(
            f"{len(found.answers)} passage(s) that answer a question of {measured} are negatives "
            f"in {train} (first: {found.answers[0][:_SHOWN]!r}): training would spoil what is "
            f"measured; {_ADVICE}"
        )
    if found.chosen_by:
        raise BadInput(
            f"{len(found.chosen_by)} of {len(collection.queries)} questions of {measured} stand "
            f"in the validation data, {validation_file(settings)} (first: {found.chosen_by[0]!r}), "
            "by which the best step is chosen: figures would be too good; set val_data_path to "
            "other questions"
        )


def _known(recipe: Recipe, names: Sequence[str]) -> tuple[list[Group], list[Group]]:
    """The groups for training and for validation that no stage of the run makes."""
    settings, home = recipe.finetune, recipe.prep.home.resolve()

    def there(path: str | None) -> bool:
        made = path is not None and Path(path).resolve().is_relative_to(home) and "prep" in names
        return path is not None and not made and Path(path).exists()

    if there(settings.train_data_path):
        groups, held_out = read_examples(settings, lambda _: None)
        return groups, held_out or []
    if settings.val_data_path is None or not there(settings.val_data_path):
        return [], []
    return [], read_groups(Path(settings.val_data_path), settings.train_n_passages, split="val")
