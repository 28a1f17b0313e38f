"""All checkpoints of the zoo."""

from tests.zoo import bert_embedders, bert_rankers, encoders, llama, options, others
from tests.zoo.case import Case

CASES: tuple[Case, ...] = (
    *bert_rankers.CASES,
    *bert_embedders.CASES,
    *encoders.CASES,
    *llama.CASES,
    *options.CASES,
    *others.CASES,
)
