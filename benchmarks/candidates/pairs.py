"""Tokens of pairs for candidates that call an engine directly, and the grouping of their rows."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Encoding, Tokenizer

from benchmarks.protocol import Setting, templated

# Padded tokens of one call when rows are grouped; more gains nothing on a CPU.
BUDGET_TOKENS = 2048


class Pairs:
    """Encodes with the graph's own tokenizer.json."""

    def __init__(self, setting: Setting) -> None:
        file = Path(setting.graph) / "tokenizer" / "tokenizer.json"
        self._tokenizer = Tokenizer.from_file(str(file))
        self._tokenizer.no_padding()
        joined = setting.template is not None
        self._tokenizer.enable_truncation(
            setting.max_tokens, strategy="longest_first" if joined else "only_second"
        )
        self._template = setting.template

    def encode(self, query: str, passages: Sequence[str]) -> list[Encoding]:
        """One unpadded encoding a pair."""
        if self._template is None:
            return self._tokenizer.encode_batch([(query, passage) for passage in passages])
        return self._tokenizer.encode_batch(
            [templated(self._template, query, passage) for passage in passages]
        )


def calls(rows: Sequence[Encoding], *, grouped: bool) -> list[list[int]]:
    """Rows that share a call: each alone, or neighbours in length up to BUDGET_TOKENS."""
    order = sorted(range(len(rows)), key=lambda index: len(rows[index].ids))
    if not grouped:
        return [[index] for index in order]
    groups: list[list[int]] = []
    for index in order:
        if groups and (len(groups[-1]) + 1) * len(rows[index].ids) <= BUDGET_TOKENS:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def arrays(rows: Sequence[Encoding], names: Sequence[str]) -> dict[str, Any]:
    """The graph's inputs `names`, int64 [rows, longest], padded at the right with masked zeros."""
    longest = max(len(row.ids) for row in rows)
    found = {}
    for name in names:
        parts = [_part(row, name) for row in rows]
        found[name] = np.zeros((len(rows), longest), dtype=np.int64)
        for into, part in zip(found[name], parts, strict=True):
            into[: len(part)] = part
    return found


def _part(row: Encoding, name: str) -> list[int]:
    parts = {
        "input_ids": row.ids,
        "attention_mask": row.attention_mask,
        "token_type_ids": row.type_ids,
    }
    return parts[name]
