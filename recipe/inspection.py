"""rerank data inspect PATH: what labelled data hold, and what prep would make of them."""

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median

from recipe.config import Recipe
from recipe.config_files import load
from recipe.data.reading import Reading, read
from recipe.data.rows import Broken, Source, normal
from recipe.errors import BadInput
from recipe.preparation.held_out import divided
from recipe.progress import stage_log

ABOUT = "say what labelled data hold before anything costs"
_EXAMPLES, _SHOWN = 3, 100
_HIGH = 0.95
# Texts → the length of each.
Length = Callable[[Sequence[str]], list[int]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the action and the path."""
    parser.add_argument("action", choices=["inspect"], help="what to do with the data")
    parser.add_argument(
        "path", metavar="PATH", help="a file, a folder, or hf://ORG/NAME@REVISION/SUBSET"
    )


def run(args: argparse.Namespace) -> int:
    """Print what was found; returns 1 when prep would refuse the data."""
    recipe = load(args.config, ["prep", "finetune"], args.overrides)
    broken = Broken(None)
    how = Reading(recipe.prep.columns, recipe.prep.encoding)
    source = read(args.path, how, broken, stage_log("data"))
    unit, length = _ruler(recipe)
    fits, splits = _splits(source, recipe)
    lines = [
        f"{args.path}: {source.form}",
        *_counts(source, broken),
        *_lengths(source, unit, length),
        *source.notes,
        *splits,
        *_examples(source),
    ]
    sys.stdout.write("".join(f"{_printable(line)}\n" for line in lines))
    return 0 if fits and broken.count <= recipe.prep.max_broken_rows else 1


def _counts(source: Source, broken: Broken) -> Iterator[str]:
    asked = Counter(normal(row.question) for row in source.rows)
    yield f"rows: {len(source.rows)}" + (
        f", and {broken.count} broken: {broken.shown()}" if broken.count else ""
    )
    yield f"questions: {len(asked)}, {sum(n > 1 for n in asked.values())} in more than one row"
    texts = Counter(map(normal, source.texts.values()))
    yield (
        f"passages: {len(source.texts)}, {len(source.texts) - len(texts)} the same as another but "
        "for case or white space"
    )
    for what in ("positives", "negatives"):
        found = [len(getattr(row, what)) for row in source.rows]
        yield f"{what} a row: {_spread(found)}, none in {found.count(0)}"
    named = Counter(row.split for row in source.rows if row.split)
    splits = ", ".join(f"{split} {number}" for split, number in named.items())
    yield f"splits that the data name: {splits or 'none'}"


def _lengths(source: Source, unit: str, length: Length) -> Iterator[str]:
    questions = list({row.question for row in source.rows})
    for what, texts in (("question", questions), ("passage", list(source.texts.values()))):
        yield f"{unit} a {what}: {_spread(length(texts))}"


def _splits(source: Source, recipe: Recipe) -> tuple[bool, list[str]]:
    """Whether prep would take the data, and how it would divide them."""
    said: list[str] = []
    try:
        found = divided(source, recipe.prep, said.append)
    except BadInput as error:
        return False, [*said, f"prep would refuse them: {error}"]
    taken = (
        f"prep would take {len(found.train)} questions to train, {len(found.val)} to validate, "
        f"{len(found.test)} to test (seed {recipe.prep.seed}):"
    )
    said = said or ["no question or answer is in two splits"]
    return True, [taken, *(f"  {line}" for line in said)]


def _examples(source: Source) -> Iterator[str]:
    for row in source.rows[:_EXAMPLES]:
        yield f"question: {_short(row.question)}"
        for what, names in (("answer", row.positives), ("other", row.negatives)):
            yield from (f"  {what}: {_short(source.texts[name])}" for name in names[:1])


def _ruler(recipe: Recipe) -> tuple[str, Length]:
    """What texts are measured in: tokens of the model to fine-tune where it is here, else words."""
    if not Path(recipe.finetune.base_model).is_dir():
        return "words", lambda texts: [len(text.split()) for text in texts]
    from exporter.checkpoint import read_checkpoint  # late: torch
    from exporter.tokens import load_tokenizer

    found = read_checkpoint(recipe.finetune.base_model)
    tokenizer = load_tokenizer(
        found.directory, found.config.get("model_type"), lower_case=found.texts.lower_case
    )

    def tokens(texts: Sequence[str]) -> list[int]:
        return [len(tokenizer.tokenize(text)) for text in texts]

    return f"tokens of {recipe.finetune.base_model}", tokens


def _spread(numbers: Sequence[int]) -> str:
    if not numbers:
        return "none"
    ranked = sorted(numbers)
    high = ranked[min(len(ranked) - 1, int(_HIGH * len(ranked)))]
    return f"{ranked[0]} to {ranked[-1]}, median {median(ranked):g}, 95 % up to {high}"


def _printable(line: str) -> str:
    """`line` without characters that a terminal would obey."""
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode() for one in line
    )


def _short(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= _SHOWN else f"{flat[: _SHOWN - 1]}…"
