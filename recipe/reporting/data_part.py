"""The parts of the page about data and origin: counts, stages, settings, hashes, versions."""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

import msgspec

from recipe.addresses import public_address
from recipe.config import STAGE_NAMES, Recipe
from recipe.data.files import text_lines
from recipe.durable import read_json
from recipe.evaluation.collection import FILES
from recipe.preparation.files import CORPUS_FOLDER, EVAL_FOLDER
from recipe.reporting.markup import folded, foreign, listed, table
from recipe.reporting.runs import Run, StageRun

_HASH_SHOWN = 12


class _Counted(msgspec.Struct):
    data: list[msgspec.Raw] = []


def data_part(stage: StageRun) -> list[Element]:
    """What prep made: where from, and how many."""
    home, settings = stage.home, stage.settings
    source = settings.get("data") or settings.get("train_input_file") or settings["sdg_input_path"]
    mining = str(settings.get("mining"))
    if mining != "none":
        mining += f": {settings['hard_negatives_to_mine']} negatives with {settings['base_model']}"
    facts = [
        ("read from", _public(source)),
        ("passages", str(_passages(home / CORPUS_FOLDER / "train.parquet"))),
        ("questions to train", str(_count(home / "train.json"))),
        ("examples with negatives", str(_count(home / "train_mined.automodel_unrolled.json"))),
        ("questions to validate", str(_count(home / "val.json"))),
        *zip(
            ("passages to rank", "questions to test", "judgements"),
            map(str, _measured(home / EVAL_FOLDER)),
            strict=False,
        ),
        ("mining", mining),
    ]
    return [listed("What was trained and measured on", facts)]


def _count(file: Path) -> int:
    found = read_json(file, _Counted)
    return 0 if found is None else len(found.data)


def _passages(file: Path) -> int:
    if not file.is_file():
        return 0
    from pyarrow import parquet  # late: a hundred megabytes

    return int(parquet.read_metadata(file).num_rows)


def _measured(folder: Path) -> Iterator[int]:
    for name in FILES:
        file = folder / name
        lines = sum(1 for _ in text_lines(file, None)) if file.is_file() else 0
        yield max(0, lines - name.endswith(".tsv"))


def stages_part(run: Run) -> list[Element]:
    """Which stages ran, when and where."""
    rows = []
    for name in STAGE_NAMES:
        stage = run.get(name)
        if stage is None:
            rows.append([name, "not run", "–", "–", "–"])
            continue
        mark = stage.mark
        state = "begun" if mark.finished_at is None else "finished"
        begun = mark.started_at[:19].replace("T", " ")
        rows.append([name, state, begun, _took(mark), str(stage.home)])
    return [table("What was run", ["stage", "state", "begun at (UTC)", "took", "folder"], rows)]


def _took(mark: Any) -> str:
    if mark.finished_at is None:
        return "–"
    begun, ended = map(datetime.fromisoformat, (mark.started_at, mark.finished_at))
    minutes, seconds = divmod(round((ended - begun).total_seconds()), 60)
    return f"{minutes} min {seconds} s"


def origin_part(run: Run) -> list[Element]:
    """Of each stage: the settings that are not the defaults, its inputs' hashes, and versions."""
    parts: list[Element] = []
    for name, stage in run.items():
        usual = msgspec.to_builtins(getattr(Recipe(), name))
        changed = [
            (key, foreign(_public(value)))
            for key, value in stage.settings.items()
            if usual.get(key) != value
        ]
        inputs = [(key, foreign(value[:_HASH_SHOWN])) for key, value in stage.mark.inputs.items()]
        versions = [(key, value) for key, value in stage.mark.versions.items()]
        parts.append(
            folded(
                name,
                listed("Settings that are not the defaults", changed or [("none", "")]),
                listed("Inputs, by hash or commit", inputs or [("none", "")]),
                listed("Versions", versions),
            )
        )
    return parts


def _public(value: object) -> str:
    """A setting as it may be written, without what signs in."""
    return public_address(value if isinstance(value, str) else msgspec.json.encode(value).decode())
