"""One line of sdg's output, with the keys of NVIDIA's data-designer-retrieval-sdg.

Source: the record that `plugins/data-designer-retrieval-sdg` of NVIDIA-NeMo/DataDesignerPlugins
writes and its conversion reads. Unknown keys are ignored when reading.
"""

from typing import Annotated

import msgspec

RESULT_FILE = "generation_result.json"
RESULT_SCHEMA = 1

Score = Annotated[float, msgspec.Meta(ge=0, le=10)]


class Chunk(msgspec.Struct, frozen=True):
    """A passage of the corpus; ids count from 1 in each record."""

    chunk_id: int
    text: str


class Hop(msgspec.Struct, frozen=True):
    """One step of a question that needs several passages."""

    hop_number: int
    segment_ids: list[int]
    summary: str = ""


class QaPair(msgspec.Struct, frozen=True, kw_only=True):
    """A question, and in `segment_ids` the chunks that answer it."""

    question: str
    answer: str
    query_type: str = "contextual"
    reasoning_type: str = "factual"
    question_complexity: int = 2
    segment_ids: list[int]
    hop_count: int = 1
    hop_contexts: list[Hop] = []


class Mark(msgspec.Struct, frozen=True):
    """A judge's score of one quality, 0 to 10."""

    score: Score
    justification: str = ""


class Overall(msgspec.Struct, frozen=True):
    """A judge's score of the pair as a whole, 0 to 10."""

    score: Score
    assessment: str = ""


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """A judge's scores of one pair."""

    relevance: Mark
    accuracy: Mark
    context_support: Mark
    clarity: Mark
    overall: Overall
    improvements: str = ""


class Evaluations(msgspec.Struct, frozen=True):
    """One evaluation for each pair of the record, in order."""

    evaluations: list[Evaluation]


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One document, or one bundle of documents."""

    file_name: Annotated[list[str], msgspec.Meta(min_length=1)]
    chunks: list[Chunk]
    deduplicated_qa_pairs: list[QaPair]
    qa_evaluations: Evaluations


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """generation_result.json: the path of the records (relative to this file, or absolute)."""

    schema_version: int
    dataset_name: str
    output_path: str
