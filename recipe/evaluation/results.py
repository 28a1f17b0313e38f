"""eval_results.json: one column for each measured model, and the data it was measured on.

NVIDIA's keys (`{column: {"NDCG": {"NDCG@10": …}, "MAP", "Recall", "Precision"}}`) plus the facts
that make two columns comparable.
"""

from pathlib import Path

import msgspec

from recipe.durable import read_json, write_json
from recipe.errors import BadInput
from recipe.evaluation.significance import Gain

RESULTS_FILE = "eval_results.json"
# The first stage before any reranking, then the chain from checkpoint to served endpoint.
RETRIEVAL = "retrieval"
COLUMNS = (RETRIEVAL, "base", "finetuned", "onnx", "tensorrt", "nim")
CHAIN = ("finetuned", "onnx", "tensorrt", "nim")


class Basis(msgspec.Struct, frozen=True, kw_only=True):
    """The facts that must be equal for two columns to be comparable.

    `eval_beir` is the hash of the folder, `candidates` that of the retriever and its settings;
    `prompt_template` is None where the tokenizer joins the pair.
    """

    eval_beir: str
    candidates: str
    prompt_template: str | None
    max_length: int


class Column(msgspec.Struct, frozen=True, kw_only=True):
    """A measured model. `identity` is a hash of the model's files, empty for an endpoint.

    `against` holds its differences from each column before it, by column and measure.
    """

    NDCG: dict[str, float]
    MAP: dict[str, float]
    Recall: dict[str, float]
    Precision: dict[str, float]
    source: str
    identity: str
    basis: Basis
    against: dict[str, dict[str, Gain]] = {}


Results = dict[str, Column]


def read_results(directory: Path) -> Results:
    """The columns so far, empty when nothing was measured. Raises BadInput for a broken file."""
    file = directory / RESULTS_FILE
    how = "remove it and run the stage eval again"
    found = read_json(
        file, Results, lambda error: BadInput(f"{file} cannot be used ({error}); {how}")
    )
    return found or {}


def add_column(directory: Path, name: str, column: Column) -> Results:
    """Add the column to eval_results.json atomically, and return all columns.

    Raises BadInput when the existing columns were measured on something else.
    """
    results = read_results(directory)
    for other, found in results.items():
        if other != name:
            refuse_other_basis(f"the column {other}", found.basis, column.basis)
    results[name] = column
    ordered = {key: results[key] for key in COLUMNS if key in results}
    write_results(directory, ordered)
    return ordered


def write_results(directory: Path, results: Results) -> None:
    """Write eval_results.json atomically."""
    write_json(directory / RESULTS_FILE, results)


def refuse_other_basis(what: str, found: Basis, wanted: Basis) -> None:
    """Raise BadInput for the first fact that differs."""
    for name in Basis.__struct_fields__:
        ours, theirs = getattr(wanted, name), getattr(found, name)
        if ours != theirs:
            raise BadInput(
                f"{what} was measured with {name} = {theirs!r}, now it is {ours!r}: the figures "
                "are not comparable; run the stage eval again with --force"
            )
