"""Evaluation data in any form: BEIR's folder, or another one that `recipe/data` reads."""

import hashlib
from pathlib import Path

from recipe.data.reading import Reading, parts, read
from recipe.data.rows import Broken, Row
from recipe.errors import BadInput
from recipe.evaluation.collection import FILES, Collection, read_collection
from recipe.preparation.split import Material, join, with_ids
from recipe.stage import hash_of

_HASH_DIGITS = 16


def open_collection(given: Path) -> Collection:
    """The questions for evaluation at `given`, with their passages.

    Of data that name splits, these are those of test, or of validation where there is no test.
    Raises BadInput.
    """
    if given.is_dir() and all((given / name).is_file() for name in FILES):
        return read_collection(given)
    broken = Broken(0, key=None)
    source = read(str(given), Reading(), broken, lambda _: None)
    broken.settle(given, lambda _: None)
    asked = [one for one in join(_measured(source.rows)) if one.positives]
    if not asked:
        raise BadInput(f"found no question with a passage that answers it in {given}")
    named = with_ids(Material(source.texts, [], [], asked)).test
    grades = {
        one.id: dict.fromkeys(one.negatives, 0) | dict(zip(one.positives, one.grades, strict=True))
        for one in named
    }
    return Collection(source.texts, {one.id: one.text for one in named}, grades, _digest(given))


def _measured(rows: list[Row]) -> list[Row]:
    named = {row.split for row in rows}
    split = next((one for one in ("test", "val") if one in named), None)
    return [row for row in rows if row.split == split] if split else rows


def _digest(given: Path) -> str:
    """A short hash of all files that are read."""
    whole = " ".join(hash_of(path) for path in parts(str(given)))
    return hashlib.sha256(whole.encode()).hexdigest()[:_HASH_DIGITS]
