"""The part of the page about training: curves, steps, and what was kept."""

from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

from recipe.addresses import public_address
from recipe.durable import Journal
from recipe.reporting import charts
from recipe.reporting.markup import element, listed
from recipe.reporting.runs import StageRun
from recipe.training.curves import METRICS_FILE, Points, draw_panel, panels
from recipe.training.job import LATEST, began_with, of_seed, read_facts


def training_part(stage: StageRun) -> list[Element]:
    """The curves of the first seed, of every seed beside them, and the facts."""
    checkpoints = stage.home / Path(stage.settings["checkpoint_dir"]).name
    folders = [of_seed(checkpoints, n) for n in range(stage.settings.get("seeds", 1))]
    histories = [_history(folder) for folder in folders]
    parts = [_facts(stage, checkpoints)]
    drawn = [_chart(title, curves) for title, curves in panels(histories[0])]
    if len(histories) > 1 and (each := _losses(histories)):
        drawn.append(_chart("loss of each seed", each))
    if drawn:
        parts.insert(0, element("div", *drawn, class_="charts"))
    else:
        parts.insert(0, element("p", "No step was logged yet.", class_="absent"))
    return parts


def _facts(stage: StageRun, checkpoints: Path) -> Element:
    settings, plan = stage.settings, began_with(checkpoints)
    kept = read_facts(checkpoints / LATEST)
    found = [("base model", str(settings["base_model"]))]
    if kept is not None:
        found += [
            ("training data", kept.train_data or "not recorded"),
            ("step that was kept", str(kept.steps)),
            ("tokens of a pair, at most", str(kept.rerank_max_length)),
        ]
    else:
        found.append(("checkpoint", "none was published yet"))
    if plan is not None:
        found += [
            ("examples", str(plan.examples)),
            (
                "steps",
                f"{plan.steps} of {plan.batch} examples each, the first {plan.warmup} for warm-up",
            ),
        ]
    peft, teacher = settings.get("peft"), public_address(settings.get("teacher") or "")
    found += [
        ("learning rate", str(settings["learning_rate"])),
        ("trained", f"adapters of rank {settings['lora_rank']} (LoRA)" if peft else "all weights"),
        (
            "negatives",
            f"{settings['train_n_passages'] - 1} an example, "
            + ("drawn anew each epoch" if settings.get("sample_negatives") else "always the same"),
        ),
        ("learned from", f"the margins of {teacher}" if teacher else "the labels"),
    ]
    return listed("How it was trained", found)


def _history(folder: Path) -> list[dict[str, Any]]:
    return [entry for entry in Journal[Any](folder / METRICS_FILE).read() if "step" in entry]


def _losses(histories: list[list[dict[str, Any]]]) -> dict[str, Points]:
    """The validation loss of each seed, or the training loss where none was validated."""
    key = "eval_loss" if any("eval_loss" in e for h in histories for e in h) else "loss"
    word = "validation" if key == "eval_loss" else "training"
    found = {
        f"{word}, seed {number + 1}": [(e["step"], e[key]) for e in history if key in e]
        for number, history in enumerate(histories)
    }
    return {name: points for name, points in found.items() if points}


def _chart(title: str, curves: dict[str, Points]) -> Element:
    said = "; ".join(
        f"{name}: {points[0][1]:.4g} at step {points[0][0]}, {points[-1][1]:.4g} at step "
        f"{points[-1][0]}"
        for name, points in curves.items()
    )
    return charts.chart(title.capitalize(), said, lambda axes: draw_panel(axes, curves))
