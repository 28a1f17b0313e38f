"""Questions without a language model: headings and sentences of the corpus itself.

A heading is a query for the first chunks under it. A sentence of a chunk is a query for the rest of
the chunk: it is removed from the chunk, so that word matching alone does not find it. The score is
the share of the query's rare vocabulary in its chunks.
"""

import math
import random
import re
from collections import Counter
from collections.abc import Sequence

from recipe.config import SdgConfig
from recipe.generation.chunks import chunk_sentences
from recipe.generation.corpus import Document
from recipe.generation.record import (
    Chunk,
    Evaluation,
    Evaluations,
    Mark,
    Overall,
    QaPair,
    Record,
)

_WORD = re.compile(r"[^\W\d_]{3,}")
_MIN_QUERY_WORDS, _MAX_QUERY_WORDS = 4, 30
_HEADING_WORDS = 2
# A heading describes the start of its section, not the end of a long one.
_HEADING_CHUNKS = 2
# Share of a query's rare vocabulary for the full score.
_FULL_SHARE = 0.5


def generate(documents: Sequence[Document], settings: SdgConfig) -> list[Record]:
    """One record for each document with a chunk; deterministic for corpus and settings."""
    drafts = [_draft(document, settings) for document in documents]
    weights = _weights([chunk.text for draft in drafts for chunk in draft[1]])
    records = []
    for document, chunks, pairs in drafts:
        kept = _deduplicated(pairs, settings.similarity_threshold)[: settings.num_pairs]
        texts = {chunk.chunk_id: chunk.text for chunk in chunks}
        opinions = [_judge(pair, texts, weights) for pair in kept]
        if chunks:
            records.append(
                Record(
                    file_name=[document.name],
                    chunks=chunks,
                    deduplicated_qa_pairs=kept,
                    qa_evaluations=Evaluations(opinions),
                )
            )
    return records


def _draft(document: Document, settings: SdgConfig) -> tuple[Document, list[Chunk], list[QaPair]]:
    """The chunks of a document, and its pairs in an order decided by the seed."""
    order = random.Random(f"{settings.seed} {document.name}")
    chunks: list[Chunk] = []
    pairs: list[QaPair] = []
    for section in document.sections:
        heading_chunks: list[Chunk] = []
        for found in chunk_sentences(section, settings.sentences_per_chunk, with_heading=False):
            asking = [s for s in found if _MIN_QUERY_WORDS <= len(s.split()) <= _MAX_QUERY_WORDS]
            query = order.choice(asking) if asking and len(found) > 1 else None
            text = " ".join(sentence for sentence in found if sentence != query)
            if len(text) < settings.min_text_length:
                continue
            heading_chunks.append(Chunk(len(chunks) + len(heading_chunks) + 1, text))
            if query is not None:
                pairs.append(_pair(query, heading_chunks[-1:], "contextual"))
        if heading_chunks and len(section.heading.split()) >= _HEADING_WORDS:
            pairs.append(_pair(section.heading, heading_chunks[:_HEADING_CHUNKS], "structural"))
        chunks += heading_chunks
    order.shuffle(pairs)
    return document, chunks, pairs


def _pair(query: str, chunks: Sequence[Chunk], query_type: str) -> QaPair:
    return QaPair(
        question=query,
        answer=chunks[0].text,
        query_type=query_type,
        segment_ids=[chunk.chunk_id for chunk in chunks],
    )


def _deduplicated(pairs: Sequence[QaPair], threshold: float) -> list[QaPair]:
    """Drop pairs whose words are nearly those of an earlier pair (cosine of word counts)."""
    kept: list[tuple[Counter[str], QaPair]] = []
    for pair in pairs:
        words = Counter(_WORD.findall(pair.question.lower()))
        if words and all(_cosine(words, other) <= threshold for other, _ in kept):
            kept.append((words, pair))
    return [pair for _, pair in kept]


def _cosine(one: Counter[str], other: Counter[str]) -> float:
    dot = sum(count * other[word] for word, count in one.items())
    return dot / math.sqrt(
        sum(count**2 for count in one.values()) * sum(count**2 for count in other.values())
    )


def _weights(texts: Sequence[str]) -> dict[str, float]:
    """Inverse document frequency of every word."""
    counts = Counter(word for text in texts for word in set(_WORD.findall(text.lower())))
    return {word: math.log(1 + len(texts) / count) for word, count in counts.items()}


def _judge(pair: QaPair, texts: dict[int, str], weights: dict[str, float]) -> Evaluation:
    query_words = set(_WORD.findall(pair.question.lower()))
    answer_words = set(_WORD.findall(" ".join(texts[name] for name in pair.segment_ids).lower()))
    rarest = max(weights.values())
    mass = sum(weights.get(word, rarest) for word in query_words)
    share = sum(weights[word] for word in query_words & answer_words) / mass
    score = round(10 * min(1.0, share / _FULL_SHARE), 1)
    mark = Mark(score)
    return Evaluation(
        relevance=mark,
        accuracy=Mark(10.0),
        context_support=mark,
        clarity=mark,
        overall=Overall(score, f"{share:.0%} of the query's rare vocabulary is in its chunks"),
    )
