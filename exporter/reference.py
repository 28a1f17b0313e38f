"""What the checkpoint itself answers: its tokens and its float32 scores, one pair at a time."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from exporter.architectures.base import Architecture
from exporter.errors import CheckpointRefused
from exporter.parity_texts import Group, added_tokens_group, parity_groups
from exporter.tokens import CheckpointTokenizer, Tokens

Scores = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Reference:
    """The parity groups with the checkpoint's answers.

    `tokens[g][p]` and `logits[g]` float64 [passages] belong to passage p of `groups[g]`.
    """

    groups: tuple[Group, ...]
    tokens: list[list[Tokens]]
    logits: list[Scores]


def reference_scores(
    model: Architecture, tokenizer: CheckpointTokenizer, vocabulary: int, max_tokens: int
) -> Reference:
    """Tokenise and score every parity pair without the runtime: unpadded, one row a call.

    Raises CheckpointRefused when the checkpoint itself gives NaN or infinity, or its tokenizer
    an id past the `vocabulary` of its embeddings.
    """
    groups = (*parity_groups(max_tokens), *added_tokens_group(tokenizer.added_tokens()))
    tokens = [[tokenizer.encode(g.query, p) for p in g.passages] for g in groups]
    largest = max(max(row.token_ids) for rows in tokens for row in rows)
    if largest >= vocabulary:
        raise CheckpointRefused(
            f"the tokenizer gives the id {largest}, but config.json has vocab_size = {vocabulary}; "
            "tokenizer and weights are not of one checkpoint"
        )
    logits = [np.asarray([_logit(model, row) for row in rows]) for rows in tokens]
    for group, found in zip(groups, logits, strict=True):
        for index in np.flatnonzero(~np.isfinite(found)):
            raise CheckpointRefused(
                f"the checkpoint itself gives {found[index]} for {group.label(int(index))}; its "
                "weights are broken, train or download it again"
            )
    return Reference(groups, tokens, logits)


@torch.inference_mode()
def _logit(model: Architecture, tokens: Tokens) -> float:
    ids = torch.tensor([tokens.token_ids])
    inputs = [ids, torch.ones_like(ids)]
    if tokens.type_ids is not None:
        inputs.append(torch.tensor([tokens.type_ids]))
    return float(model(*inputs))
