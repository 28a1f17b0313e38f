"""Diagnose why witness and artifact differ: a file that was read differently, or the graph.

Runs only after a failure. It names the likeliest cause, judged by how the two differ.
"""

from collections.abc import Callable, Sequence

import numpy as np

from exporter.answers import Outputs, Reference, Tokens
from exporter.sentence_files import MODEL_FILE, SETTINGS_FILES, TOKENIZER_CONFIG

# Only rows up to this many tokens are computed again, which takes seconds.
_LONGEST = 512
# The exporter's own model rounds like the witness, except for the order of some sums.
_SAME, _SCALE = 1e-4, 5.0


def diagnose_tokens(found: Sequence[int], wanted: Tokens) -> str:
    """The file and key that most likely explain why the runtime's ids `found` or its token types
    differ from the witness's `wanted`."""
    theirs = wanted.token_ids
    if found == theirs:
        return f"model_input_names in {TOKENIZER_CONFIG}, which says whether types are fed"
    pairs = enumerate(zip(found, theirs, strict=False))
    at = next((index for index, (a, b) in pairs if a != b), min(len(found), len(theirs)))
    if len(theirs) < len(found) and at >= len(theirs) - 1:
        return f"max_seq_length in {SETTINGS_FILES[0]} or model_max_length in {TOKENIZER_CONFIG}"
    if len(theirs) > len(found) and at <= 1:
        return f"a prompt in {MODEL_FILE}, in a chat template or in training.json"
    return (
        f"do_lower_case in {SETTINGS_FILES[0]} or {TOKENIZER_CONFIG}, the normalizer in "
        "tokenizer.json, or the prompt"
    )


def diagnose_model(own: Callable[[Tokens], Outputs], answers: Reference) -> str:
    """Compare the exporter's `own` PyTorch model with the witness's `answers`.

    If they agree, graph or engine differ; if not, the exporter read the checkpoint differently."""
    furthest = 0.0
    for rows, wanted in zip(answers.tokens, answers.outputs, strict=True):
        for row, value in zip(rows, wanted, strict=True):
            if len(row.token_ids) <= _LONGEST:
                scale = max(1.0, float(np.abs(value).max()) / _SCALE)
                furthest = max(furthest, float(np.abs(own(row) - value).max()) / scale)
    if furthest <= _SAME:
        return (
            f"the exporter's own PyTorch model agrees with the witness (|Δ| {furthest:.2g}), so "
            "the difference is in the graph or the engine"
        )
    return (
        f"the exporter's own PyTorch model differs from the witness as well (|Δ| {furthest:.2g}), "
        "so it reads config.json, the weights or the modules differently: compare their keys "
        "with those of the base model"
    )
