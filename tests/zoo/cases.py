"""All checkpoints of the zoo."""

from tests.zoo import (
    adapted,
    bert_embedders,
    bert_rankers,
    decoders,
    encoders,
    gemma,
    layouts,
    llama,
    options,
    others,
    qwen,
)
from tests.zoo.case import Case

CASES: tuple[Case, ...] = (
    *bert_rankers.CASES,
    *bert_embedders.CASES,
    *encoders.CASES,
    *llama.CASES,
    *decoders.CASES,
    *gemma.CASES,
    *qwen.CASES,
    *layouts.CASES,
    *adapted.CASES,
    *options.CASES,
    *others.CASES,
)
