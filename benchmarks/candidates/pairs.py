"""Scoring with an engine that is called directly: tokens of pairs, and the grouping of rows."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Encoding, Tokenizer

from benchmarks.protocol import Score, Setting, templated

# Padded tokens of one call when rows are grouped; more gains nothing on a CPU.
BUDGET_TOKENS = 2048
# The inputs that a graph may have, and where an encoding has them.
_PARTS = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}


def scored(setting: Setting, names: Sequence[str], run: Callable[[dict[str, Any]], Any]) -> Score:
    """Scores of `run`, which computes the logits of a call from the graph's inputs `names`; calls
    are grouped as the option "grouped" says."""
    tokenizer = Tokenizer.from_file(str(Path(setting.graph) / "tokenizer" / "tokenizer.json"))
    tokenizer.no_padding()
    template = setting.template
    tokenizer.enable_truncation(
        setting.max_tokens, strategy="only_second" if template is None else "longest_first"
    )

    def score(query: str, passages: list[str]) -> Any:
        rows = tokenizer.encode_batch(
            [(query, passage) for passage in passages]
            if template is None
            else [templated(template, query, passage) for passage in passages]
        )
        found = np.zeros(len(rows))
        for call in _calls(rows, grouped=setting.options["grouped"]):
            found[call] = run(_arrays([rows[i] for i in call], names)).reshape(-1)
        return found

    return score


def _calls(rows: Sequence[Encoding], *, grouped: bool) -> list[list[int]]:
    """Rows that share a call: each alone, or neighbours in length up to BUDGET_TOKENS."""
    groups: list[list[int]] = []
    for index in sorted(range(len(rows)), key=lambda index: len(rows[index].ids)):
        width = len(rows[index].ids)
        if grouped and groups and (len(groups[-1]) + 1) * width <= BUDGET_TOKENS:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def _arrays(rows: Sequence[Encoding], names: Sequence[str]) -> dict[str, Any]:
    """The graph's inputs `names`, int64 [rows, longest], padded at the right with masked zeros."""
    longest = max(len(row.ids) for row in rows)
    found = {name: np.zeros((len(rows), longest), dtype=np.int64) for name in names}
    for name, array in found.items():
        for into, row in zip(array, rows, strict=True):
            into[: len(row.ids)] = getattr(row, _PARTS[name])
    return found
