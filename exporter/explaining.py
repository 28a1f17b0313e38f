"""Why a witness and an artifact part: which file was read otherwise, or that the graph is to blame.

Asked only when they do. What is named is the likeliest cause, found from how the two differ.
"""

from collections.abc import Callable, Sequence

import numpy as np

from exporter.answers import Reference, Tokens, VectorReference, Vectors
from exporter.sentence_files import MODEL_FILE, SETTINGS_FILES, TOKENIZER_CONFIG

# Rows of so many tokens are asked again: enough to tell, and done in seconds.
_LONGEST = 512
# The exporter's own model rounds as the witness does, but for the order of some sums.
_SAME, _SCALE = 1e-4, 5.0


def misread(found: Sequence[int], wanted: Tokens) -> str:
    """Which file and key most likely explain that the runtime reads the ids `found` where the
    witness reads `wanted`, or other types."""
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


def blame(own: Callable[[Tokens], Vectors], answers: Reference | VectorReference) -> str:
    """Whether the exporter's `own` model, which makes values of ids, agrees with the witness's
    `answers`: where an artifact went wrong."""
    values = answers.logits if isinstance(answers, Reference) else answers.vectors
    furthest = 0.0
    for rows, wanted in zip(answers.tokens, values, strict=True):
        for row, value in zip(rows, wanted, strict=True):
            if len(row.token_ids) <= _LONGEST:
                scale = max(1.0, float(np.abs(value).max()) / _SCALE)
                furthest = max(furthest, float(np.abs(own(row) - value).max()) / scale)
    if furthest <= _SAME:
        return (
            f"the exporter's own PyTorch model agrees with the witness (|Δ| {furthest:.2g}), so "
            "that the graph or the engine is to blame"
        )
    return (
        f"the exporter's own PyTorch model differs from the witness as well (|Δ| {furthest:.2g}), "
        "so that it reads config.json, the weights or the modules otherwise: compare their keys "
        "with those of the base model"
    )
