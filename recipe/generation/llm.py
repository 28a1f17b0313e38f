"""Questions from a language model: extract artifacts, write pairs, drop near-duplicates, judge."""

import re
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeVar

import msgspec
import numpy as np

from recipe.config import SdgConfig
from recipe.errors import StageFailed
from recipe.generation.chunks import chunk_document
from recipe.generation.corpus import Document
from recipe.generation.endpoint import Endpoint, UnusableAnswer
from recipe.generation.record import Chunk, Evaluation, Evaluations, QaPair, Record
from recipe.progress import Log, Progress

_CHAT, _EMBEDDINGS = "/chat/completions", "/embeddings"
_THINKING = re.compile(r"<think>.*?</think>", re.DOTALL)
_TEMPERATURE = 0.7

_ARTIFACTS = """\
Read the numbered segments of a document and list what stands out in them.
Give at most {most} entries for each of: key_concepts, relationships, themes, entities, \
processes, insights, technical_terms, contextual_factors.
Answer with one JSON object that maps each of these names to a list of \
{{"text": ..., "description": ..., "importance": ...}}, and with nothing else.

{segments}
"""
_PAIRS = """\
Write {count} questions that a reader of this document might ask a search engine, each with its \
answer. The answer must follow from the segments alone.
Query types in these proportions: {queries}. Reasoning types likewise: {reasonings}.
A question needs {fewest} to {most} hops between segments and a complexity of at least \
{complexity} on a scale from 1 to 5. Do not mention segments, documents or texts in a question.
Answer with one JSON object {{"pairs": [{{"question", "answer", "query_type", "reasoning_type", \
"question_complexity", "segment_ids", "hop_count", "hop_contexts": [{{"hop_number", \
"segment_ids", "summary"}}]}}]}} and with nothing else; segment_ids are the numbers of all \
segments that are needed.

What stands out:
{artifacts}

{segments}
"""
_JUDGE = """\
Judge each pair of question and answer against the segments of the document that it came from.
Give each a score from 1 to 10 for relevance (would a reader ask this?), accuracy (is the answer \
right?), context_support (do the named segments hold the answer?), clarity, and overall.
Answer with one JSON object {{"evaluations": [{{"relevance": {{"score", "justification"}}, \
"accuracy": ..., "context_support": ..., "clarity": ..., "overall": {{"score", "assessment"}}, \
"improvements"}}]}} with one entry for each of the {count} pairs, in their order, and with \
nothing else.

Pairs:
{pairs}

{segments}
"""


class _Pairs(msgspec.Struct):
    pairs: list[QaPair]


@dataclass(frozen=True)
class Source:
    """The documents of one record, and its chunks."""

    names: tuple[str, ...]
    chunks: tuple[Chunk, ...]


def sources(documents: Sequence[Document], settings: SdgConfig) -> list[Source]:
    """The sources, one record each: a document, or with `multi_doc` a bundle of neighbours."""
    size = min(settings.bundle_size, settings.max_docs_per_bundle) if settings.multi_doc else 1
    found = []
    for start in range(0, len(documents), size):
        bundle = documents[start : start + size]
        texts = [
            text
            for document in bundle
            for text in chunk_document(
                document, settings.sentences_per_chunk, settings.min_text_length
            )
        ]
        chunks = tuple(Chunk(number, text) for number, text in enumerate(texts, start=1))
        if chunks:
            found.append(Source(tuple(document.name for document in bundle), chunks))
    return found


def generate(
    found: Sequence[Source], settings: SdgConfig, chat: Endpoint, embed: Endpoint, log: Log
) -> list[Record]:
    """One record for each source, in order, at most `max_parallel_requests_for_gen` at once.

    Raises StageFailed when the endpoint failed for some sources; the answers for the others are in
    its journal by then.
    """
    progress = Progress("documents", len(found), log)

    def one(source: Source) -> Record:
        record = _record(source, settings, chat, embed)
        progress.step()
        return record

    with ThreadPoolExecutor(settings.max_parallel_requests_for_gen) as pool:
        futures = [pool.submit(one, source) for source in found]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        failed = next((f for f in futures if f.done() and f.exception()), None)
        if failed is not None:
            pool.shutdown(wait=True, cancel_futures=True)
            name = found[futures.index(failed)].names[0]
            error = failed.exception()
            if isinstance(error, StageFailed):
                raise StageFailed(f"{name}: {error}") from error
            failed.result()
    return [future.result() for future in futures]


def _record(source: Source, settings: SdgConfig, chat: Endpoint, embed: Endpoint) -> Record:
    pairs = []
    for section in _sections(source.chunks, settings.num_sections):
        segments = "\n\n".join(f"Segment {chunk.chunk_id}:\n{chunk.text}" for chunk in section)
        pairs += _pairs(section, segments, settings, chat)
    kept = _deduplicated(pairs, settings, embed)
    return Record(
        file_name=list(source.names),
        chunks=list(source.chunks),
        deduplicated_qa_pairs=kept,
        qa_evaluations=Evaluations(_judged(source, kept, settings, chat)),
    )


def _sections(chunks: Sequence[Chunk], count: int) -> list[Sequence[Chunk]]:
    """The chunks in `count` runs of nearly equal length; fewer when there are fewer chunks."""
    bounds = [round(i * len(chunks) / count) for i in range(count + 1)]
    runs = [chunks[a:b] for a, b in pairwise(bounds)]
    return [run for run in runs if run]


def _pairs(
    section: Sequence[Chunk], segments: str, settings: SdgConfig, chat: Endpoint
) -> list[QaPair]:
    most = settings.max_artifacts_per_type
    artifacts = _ask(
        chat,
        settings.artifact_extraction_model,
        _ARTIFACTS.format(most=most, segments=segments),
        lambda text: _decode(text, dict[str, list[Any]]),
    )
    shown = {name: entries[:most] for name, entries in artifacts.items()}
    prompt = _PAIRS.format(
        count=settings.num_pairs,
        queries=_counts(settings.query_counts),
        reasonings=_counts(settings.reasoning_counts),
        fewest=settings.min_hops,
        most=settings.max_hops,
        complexity=settings.min_complexity,
        artifacts=msgspec.json.encode(shown).decode(),
        segments=segments,
    )
    known = {chunk.chunk_id for chunk in section}

    def parse(text: str) -> list[QaPair]:
        usable = [
            pair
            for pair in _decode(text, _Pairs).pairs
            if pair.question.strip()
            and pair.answer.strip()
            and pair.segment_ids
            and known.issuperset(pair.segment_ids)
        ]
        if not usable:
            raise UnusableAnswer("no pair with a question, an answer and segments that exist")
        return [p for p in usable if p.question_complexity >= settings.min_complexity]

    return _ask(chat, settings.qa_generation_model, prompt, parse)


def _deduplicated(pairs: Sequence[QaPair], settings: SdgConfig, embed: Endpoint) -> list[QaPair]:
    """Drop pairs whose question is nearer than `similarity_threshold` to an earlier one."""
    if not pairs:
        return []
    request: dict[str, Any] = {
        "model": settings.embed_model,
        "input": [pair.question for pair in pairs],
    }
    if settings.embed_input_type is not None:
        request["input_type"] = settings.embed_input_type
    vectors = embed.ask(_EMBEDDINGS, request, lambda body: _vectors(body, len(pairs)))
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    kept: list[int] = []
    for number in range(len(pairs)):
        if all(vectors[number] @ vectors[other] <= settings.similarity_threshold for other in kept):
            kept.append(number)
    return [pairs[number] for number in kept]


def _judged(
    source: Source, pairs: Sequence[QaPair], settings: SdgConfig, chat: Endpoint
) -> list[Evaluation]:
    if not pairs:
        return []
    named = {name for pair in pairs for name in pair.segment_ids}
    segments = "\n\n".join(
        f"Segment {chunk.chunk_id}:\n{chunk.text}"
        for chunk in source.chunks
        if chunk.chunk_id in named
    )
    shown = [
        {"question": p.question, "answer": p.answer, "segment_ids": p.segment_ids} for p in pairs
    ]
    prompt = _JUDGE.format(
        count=len(pairs), pairs=msgspec.json.encode(shown).decode(), segments=segments
    )

    def parse(text: str) -> list[Evaluation]:
        found = _decode(text, Evaluations).evaluations
        if len(found) != len(pairs):
            raise UnusableAnswer(f"{len(found)} evaluations for {len(pairs)} pairs")
        return found

    return _ask(chat, settings.quality_judge_model, prompt, parse)


_Parsed = TypeVar("_Parsed")


def _ask(chat: Endpoint, model: str, prompt: str, parse: Callable[[str], _Parsed]) -> _Parsed:
    request = {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "temperature": _TEMPERATURE,
    }
    return chat.ask(_CHAT, request, lambda body: parse(_content(body)))


def _content(body: Any) -> str:
    """The text of a chat completion's first choice."""
    try:
        choice = body["choices"][0]
        text = choice["message"]["content"]
    except (KeyError, IndexError, TypeError) as error:
        raise UnusableAnswer("no chat completion") from error
    if choice.get("finish_reason") == "length":
        raise UnusableAnswer("truncated at the model's token limit")
    if not isinstance(text, str):
        raise UnusableAnswer("a completion without text")
    return text


def _decode(text: str, kind: type[_Parsed]) -> _Parsed:
    """The JSON object in `text`; models often add words or code fences around it."""
    text = _THINKING.sub("", text)
    start, end = text.find("{"), text.rfind("}")
    try:
        return msgspec.json.decode(text[start : end + 1].encode(), type=kind, strict=False)
    except (msgspec.DecodeError, UnicodeEncodeError) as error:
        raise UnusableAnswer(str(error)) from error


def _vectors(body: Any, count: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """float64 [count, dimensions] of an embeddings answer, in the order of the input."""
    try:
        rows = sorted(body["data"], key=lambda row: row["index"])
        vectors = np.array([row["embedding"] for row in rows], dtype=np.float64)
    except (KeyError, TypeError, ValueError) as error:
        raise UnusableAnswer("no embeddings") from error
    right = [row["index"] for row in rows] == list(range(count)) and vectors.ndim == 2
    if not right or not np.isfinite(vectors).all():
        raise UnusableAnswer(f"{len(rows)} embeddings for {count} texts, or not numbers")
    return vectors


def _counts(counts: msgspec.Struct) -> str:
    given = msgspec.structs.asdict(counts)
    return ", ".join(f"{count} {name}" for name, count in given.items() if count)
