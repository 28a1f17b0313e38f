"""What sentence-transformers computes behind a Transformer: pooling, Dense, LayerNorm, Normalize.

A module reads one named vector and gives another: an embedder's last one is sentence_embedding, a
cross-encoder's is scores. Everything that is not known is refused by name, because leaving it out
would give other numbers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from exporter.architectures.config import Config, shown
from exporter.architectures.modules import ACTIVATIONS, Step
from exporter.errors import CheckpointRefused
from exporter.sentence_files import (
    MODULES_FILE,
    Module,
    module_folder,
    read_json,
)
from exporter.weights import Stored, stored_tensors

# Between Pooling and Normalize.
STEPS = ("Dense", "LayerNorm")
EMBEDDING, SCORES = "sentence_embedding", "scores"
# What stands before names of poolings in older files, each of which has a key.
_OLDER = "pooling_mode_"
_POOLINGS = {
    "mean": "avg",
    "mean_tokens": "avg",
    "cls": "cls",
    "cls_token": "cls",
    "lasttoken": "last",
}
_DEFAULT_ACTIVATION = "Tanh"


@dataclass(frozen=True)
class Tail:
    """What follows the Transformer: the `pooling`, and `steps` behind it, whose `weights` are named
    steps.<number>.<name>. `pooled_by` is the file and key of the pooling, `sized_by` that of the
    last vector's size, empty if the body decides it."""

    pooling: str
    steps: tuple[Step, ...] = ()
    weights: Mapping[str, Stored] = field(default_factory=dict, compare=False)
    pooled_by: str = field(default="", compare=False)
    sized_by: str = field(default="", compare=False)


def read_tail(root: Path, modules: Sequence[Module], hidden: int, *, gives: str) -> Tail:
    """The tail of `modules`, which are a Transformer with states of the size `hidden`, Pooling and
    steps; its vector has the name that it `gives`. Raises CheckpointRefused."""
    pooling, place = read_pooling(root, modules[1])
    name, size, sized_by = EMBEDDING, hidden, ""
    steps: list[Step] = []
    weights: dict[str, Stored] = {}
    for number, module in enumerate(modules[2:]):
        folder = module_folder(root, module)
        config = Config(read_json(folder / "config.json", dict[str, Any]))
        where = f"{module.path}/config.json"
        reads = config.get("module_input_name") or EMBEDDING
        if reads != name:
            raise CheckpointRefused(
                f"{where} has module_input_name = {shown(reads)}, wanted {name}, which the module "
                "before it gives; other vectors are not made here"
            )
        name = config.get("module_output_name") or name
        step = _dense(config, where) if module.name == "Dense" else _norm(config)
        if step.inputs != size:
            raise CheckpointRefused(
                f"{where} takes vectors of {step.inputs} components, the module before it gives "
                f"{size}; copy all folders of one model"
            )
        size, sized_by = step.outputs, f"{where} (out_features)"
        for tensor, stored in stored_tensors(folder).items():
            weights[f"steps.{number}.{tensor}"] = stored
        steps.append(step)
    if name != gives:
        raise CheckpointRefused(
            f"the last module of {MODULES_FILE} gives {shown(name)}, wanted {gives}; other vectors "
            "are not made here"
        )
    if gives == SCORES and size != 1:
        raise CheckpointRefused(
            f"the last module of {MODULES_FILE} gives {size} scores, wanted one: a reranker gives "
            "one logit a pair"
        )
    return Tail(pooling, tuple(steps), weights, place, sized_by)


def refuse_other_steps(modules: Sequence[Module], after: Sequence[str]) -> None:
    """Raise CheckpointRefused unless the modules are Transformer, Pooling, any steps, and `after`
    them at most these."""
    names = [module.name for module in modules]
    known = ("Transformer", "Pooling", *STEPS, *after)
    for name in names:
        if name not in known:
            raise CheckpointRefused(
                f"{MODULES_FILE} has the module {name}, wanted only {', '.join(known)}; leaving "
                "it out would give other vectors, so this model cannot be exported"
            )
    behind = names[2:-1] if names[-1] in after else names[2:]
    if names[:2] != ["Transformer", "Pooling"] or not {*behind} <= {*STEPS}:
        raise CheckpointRefused(
            f"{MODULES_FILE} has the modules {', '.join(names) or 'none'}, wanted "
            f"{', '.join(known)} in this order (the first two once); save the model with these"
        )


def read_pooling(root: Path, module: Module) -> tuple[str, str]:
    """The pooling, and the file and key that name it. Raises CheckpointRefused."""
    path = module_folder(root, module) / "config.json"
    config = read_json(path, dict[str, Any])
    named = config.get("pooling_mode")
    if named is None:
        older = [key for key in config if key.startswith(_OLDER) and config[key]]
        # As sentence-transformers takes a file that names none.
        modes = [key.removeprefix(_OLDER) for key in older] or ["mean"]
    else:
        modes = list(named) if isinstance(named, list | tuple) else [named]
    (mode,) = modes if len(modes) == 1 else (None,)
    if not isinstance(mode, str) or mode not in _POOLINGS:
        raise CheckpointRefused(
            f"{path.parent.name}/config.json pools by {', '.join(map(str, modes)) or 'nothing'}, "
            "wanted mean, cls or lasttoken; pooling otherwise would give other vectors"
        )
    if config.get("include_prompt") is False:
        raise CheckpointRefused(
            f"{path.parent.name}/config.json has include_prompt = false (prompts are left out of "
            "the mean), wanted true; this model cannot be exported"
        )
    key = f"{_OLDER}{mode}" if f"{_OLDER}{mode}" in config else "pooling_mode"
    return _POOLINGS[mode], f"{path.parent.name}/config.json ({key})"


def _dense(config: Config, where: str) -> Step:
    named = config.get("activation_function")
    activation = _DEFAULT_ACTIVATION if named is None else str(named).rpartition(".")[2]
    known = named is None or (str(named).startswith("torch.nn.") and activation in ACTIVATIONS)
    if not known or config.flag("use_residual", False):
        raise CheckpointRefused(
            f"{where} has activation_function = {shown(named)} and use_residual = "
            f"{shown(config.get('use_residual'))}, wanted torch.nn's {', '.join(ACTIVATIONS)}, and "
            "no residual; anything else is not implemented"
        )
    return Step(
        "Dense",
        config.whole("in_features"),
        config.whole("out_features"),
        config.flag("bias", True),
        activation,
    )


def _norm(config: Config) -> Step:
    size = config.whole("dimension")
    return Step("LayerNorm", size, size)
