"""What of an evaluation set a model was, or would be, trained on."""

from dataclasses import dataclass

from recipe.data.rows import digest
from recipe.evaluation.collection import Collection
from recipe.training.trained_on import TrainedOn


@dataclass(frozen=True)
class Overlap:
    """Questions that were trained on, texts that answer a question and were negatives, and
    questions that the model was validated with."""

    questions: list[str]
    answers: list[str]
    chosen_by: list[str]


def measured_with(learned: TrainedOn, collection: Collection) -> Overlap:
    """What of `collection` stands in `learned`."""
    questions, negatives = set(learned.questions), set(learned.negatives)
    validated = set(learned.validated)
    asked = {text: digest(text) for text in collection.queries.values()}
    answers = (text for query in collection.queries for text in collection.answer_texts(query))
    return Overlap(
        [text for text in collection.queries.values() if asked[text] in questions],
        [text for text in dict.fromkeys(answers) if digest(text) in negatives],
        [text for text in collection.queries.values() if asked[text] in validated],
    )
