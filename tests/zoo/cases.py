"""All checkpoints of the zoo."""

from tests.zoo import adapted, bert_embedders, bert_rankers, encoders, llama, others
from tests.zoo.case import Case

CASES: tuple[Case, ...] = (
    *bert_rankers.CASES,
    *bert_embedders.CASES,
    *encoders.CASES,
    *llama.CASES,
    *adapted.CASES,
    *others.CASES,
)
