"""Split documents into chunks of whole sentences."""

import re

from recipe.generation.corpus import Document, Section

_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[\"'(\[]?[A-Z0-9])")
_BLANK_LINE = re.compile(r"\n\s*\n")
# Sentences are cut at this length, so that chunks of lists and tables stay short.
_MAX_SENTENCE_WORDS = 80


def sentences(text: str) -> list[str]:
    """The sentences of `text`; blank lines end one too, and none has more than 80 words."""
    found = []
    for paragraph in _BLANK_LINE.split(text):
        for sentence in _SENTENCE_END.split(" ".join(paragraph.split())):
            words = sentence.split(" ")
            parts = range(0, len(words), _MAX_SENTENCE_WORDS)
            found += [" ".join(words[i : i + _MAX_SENTENCE_WORDS]) for i in parts]
    return [sentence for sentence in found if sentence]


def chunk_sentences(section: Section, per_chunk: int, *, with_heading: bool) -> list[list[str]]:
    """The section's sentences, `per_chunk` to a chunk; a last chunk of one sentence is merged into
    the chunk before it."""
    text = section.text if with_heading else section.body
    found = sentences(text)
    chunks = [found[i : i + per_chunk] for i in range(0, len(found), per_chunk)]
    if len(chunks) > 1 and len(chunks[-1]) == 1:
        chunks[-2:] = [chunks[-2] + chunks[-1]]
    return chunks


def chunk_document(document: Document, per_chunk: int, min_length: int) -> list[str]:
    """The document's chunks as texts, without those under `min_length` characters."""
    chunks = [
        " ".join(chunk)
        for section in document.sections
        for chunk in chunk_sentences(section, per_chunk, with_heading=True)
    ]
    return [chunk for chunk in chunks if len(chunk) >= min_length]
