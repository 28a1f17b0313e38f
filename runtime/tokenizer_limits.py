"""Limits of a tokenizer: the growth of a text is bounded before the tokenizer is used.

tokenizer.json comes from anywhere, and can blow a text up: seven replacements of one character by
ten make ten million characters. So the worst-case growth of every step in the file is multiplied.
The figures are those of the library `tokenizers`. The library also interprets the file: the steps
are read back from a tokenizer that has these parts alone.
"""

import base64
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import chain
from math import prod
from typing import Any

import msgspec
import tokenizers

from runtime.errors import ArtifactError
from runtime.regexes import backtracks

# NFKC makes 18 characters of one (U+FDFA), byte-level tokenizers at most 5 of each.
_MOST_GROWTH = 100
_MOST_STEPS = 256
# Charsmaps, the largest parts, take half a megabyte.
_MOST_PART_BYTES = 4 << 20
# All patterns together; known tokenizers have less than one thousand bytes.
_MOST_PATTERN_BYTES = 16 << 10
# For an unknown model. The largest known vocabulary has 901,629 entries.
MOST_VOCABULARY = 1 << 20
# Known tokenizers have two merges for an entry, and some four quotes for a merge.
_QUOTES_OF_MERGES = 16
# Few entries of a vocabulary contain a colon or a bracket.
_OTHER_SIGNS = 1 << 12
# Special tokens around a text: known tokenizers have two to four.
_MOST_SPECIAL = 256
# Added tokens; some models reserve thousands.
_MOST_ADDED = 1 << 16
_MOST_ADDED_CHARS = 1 << 18
_MOST_TOKEN_CHARS = 256
# Characters of all normalised added tokens: the library normalises them when it reads the file.
_MOST_NORMALIZED_CHARS = 1 << 18
# Affixes: the library copies them for each unknown word, or for each of its characters.
_MOST_AFFIX_CHARS = 256
# A word of n characters is split in n² / 2 ways; the usual limit is 100.
_MOST_WORD_CHARS = 1000

# The largest growth of one character, over all of Unicode. A sequence of these forms grows a
# character no more than the form with the largest growth.
_OF_UNICODE = {
    "NFC": 3,
    "NFD": 4,
    "NFKC": 18,
    "NFKD": 18,
    "Lowercase": 2,
    "Nmt": 1,
    "Strip": 1,
    "StripAccents": 1,
}
_BYTES_OF_ONE = 4
# BertNormalizer puts blanks around Chinese characters.
_WITH_BLANKS = 3
# Patterns that consume at least one character: literals and classes, once or repeated. They cannot
# match an empty text.
_CONSUMING = re.compile(r"(?:(?:\\[sSdDwWnrt]|[^\\\[\](){}?*+|^$])(?:\+|\{[1-9]\d*(?:,\d*)?\})?)+")
_Step = Mapping[str, Any]


class _Added(msgspec.Struct):
    content: str = ""
    normalized: bool = True


class _Model(msgspec.Struct):
    vocab: msgspec.Raw = msgspec.Raw(b"")
    merges: msgspec.Raw = msgspec.Raw(b"")
    unk_token: str | None = None
    continuing_subword_prefix: str | None = None
    end_of_word_suffix: str | None = None
    max_input_chars_per_word: int | None = None


class _File(msgspec.Struct):
    model: _Model = msgspec.field(default_factory=_Model)
    added_tokens: list[_Added] = []
    normalizer: msgspec.Raw = msgspec.Raw(b"null")
    pre_tokenizer: msgspec.Raw = msgspec.Raw(b"null")
    post_processor: msgspec.Raw = msgspec.Raw(b"null")
    decoder: msgspec.Raw = msgspec.Raw(b"null")


def check_tokenizer(raw: bytes, vocabulary: int = MOST_VOCABULARY) -> None:
    """Raise ArtifactError unless the tokenizer.json in `raw` bounds the growth of a text and has no
    more entries than a model of this `vocabulary`. Raises the library's own error if it cannot read
    the file."""
    file = msgspec.json.decode(raw, type=_File)
    for name in ("normalizer", "pre_tokenizer", "post_processor", "decoder"):
        _refuse(len(memoryview(getattr(file, name))), _MOST_PART_BYTES, f"bytes of {name}")
    for part in (file.normalizer, file.pre_tokenizer, file.decoder):
        size = sum(len(one.encode()) for one in _patterns(msgspec.json.decode(part)))
        _refuse(size, _MOST_PATTERN_BYTES, "bytes of patterns in a part")
    _check_added(file.added_tokens)
    _check_model(file.model)
    _check_entries(file.model, vocabulary)
    parts = _without_vocabulary(file)
    normalizers = _steps(parts.normalizer, "normalizers")
    pre_tokenizers = _steps(parts.pre_tokenizer, "pretokenizers")
    processors = _steps(parts.post_processor, "processors")
    steps = len(normalizers) + len(pre_tokenizers) + len(processors)
    _refuse(steps, _MOST_STEPS, "steps")
    normalized = _normalized(normalizers)
    growth = normalized * prod(map(_pre_tokenized, pre_tokenizers))
    if growth > _MOST_GROWTH:
        raise _refusal(
            f"makes up to {growth:.3g} characters of one (normalizer and pre_tokenizer together), "
            f"wanted {_MOST_GROWTH} at most"
        )
    added = sum(len(token.content) for token in file.added_tokens if token.normalized)
    _refuse(
        int(normalized * added), _MOST_NORMALIZED_CHARS, "characters of normalized added_tokens"
    )
    for step in (*normalizers, *pre_tokenizers):
        pattern = step.get("pattern")
        regex = pattern.get("Regex") if isinstance(pattern, Mapping) else None
        if regex and backtracks(regex):
            found = f"has the pattern {regex[:80]!r}, which could take for ever on a short text"
            raise _refusal(found)
    _refuse(sum(map(_special_tokens, processors)), _MOST_SPECIAL, "special tokens around a text")


def _without_vocabulary(file: _File) -> tokenizers.Tokenizer:
    """The tokenizer without its vocabulary and added tokens, which the library would normalise."""
    parts = {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": file.normalizer,
        "pre_tokenizer": file.pre_tokenizer,
        "post_processor": file.post_processor,
        "model": {"type": "WordLevel", "vocab": {}, "unk_token": ""},
    }
    return tokenizers.Tokenizer.from_buffer(msgspec.json.encode(parts))


def _refuse(found: int, most: int, what: str) -> None:
    if found > most:
        raise _refusal(f"has {found} {what}, wanted {most} at most")


def _refusal(found: str) -> ArtifactError:
    return ArtifactError(
        f"tokenizer.json {found}; use the tokenizer that the model was trained with"
    )


def _check_added(tokens: list[_Added]) -> None:
    sizes = [len(token.content) for token in tokens]
    _refuse(len(sizes), _MOST_ADDED, "added_tokens")
    _refuse(sum(sizes), _MOST_ADDED_CHARS, "characters of added_tokens")
    _refuse(max(sizes, default=0), _MOST_TOKEN_CHARS, "characters of an added token")


def _check_model(model: _Model) -> None:
    for name in ("unk_token", "continuing_subword_prefix", "end_of_word_suffix"):
        _refuse(len(getattr(model, name) or ""), _MOST_AFFIX_CHARS, f"characters of {name}")
    found = model.max_input_chars_per_word or 0
    _refuse(found, _MOST_WORD_CHARS, "as max_input_chars_per_word")


def _check_entries(model: _Model, vocabulary: int) -> None:
    """Bound the entries by counting the signs that each needs, because building millions of them
    takes gigabytes: one colon in {text: id}, one bracket in [[text, score], …], one or two pairs of
    quotes in a merge."""
    vocab, merges = bytes(model.vocab), bytes(model.merges)
    sign = b"[" if vocab.startswith(b"[") else b":"
    what = f"entries in its vocabulary, of which the model knows {vocabulary}"
    _refuse(vocab.count(sign), 2 * vocabulary + _OTHER_SIGNS, what)
    what = f"quotes in its merges, for a vocabulary of {vocabulary}"
    _refuse(merges.count(b'"'), _QUOTES_OF_MERGES * vocabulary + _OTHER_SIGNS, what)


def _patterns(part: Any) -> Iterator[str]:
    """The regular expressions in a part of the file, before the library compiles them."""
    if isinstance(part, dict):
        if isinstance(part.get("Regex"), str):
            yield part["Regex"]
        part = list(part.values())
    if isinstance(part, list):
        for one in part:
            yield from _patterns(one)


def _steps(part: Any, inside: str) -> list[_Step]:
    """The steps of a normalizer, pre_tokenizer or post_processor in order, sequences flattened."""

    def flat(step: _Step) -> list[_Step]:
        sequence = step["type"] == "Sequence"
        return list(chain.from_iterable(map(flat, step[inside]))) if sequence else [step]

    return [] if part is None else flat(msgspec.json.decode(part.__getstate__()))


def _normalized(steps: Sequence[_Step]) -> float:
    """The largest growth of one character by these normalizers in sequence."""
    growth, forms = 1.0, []  # the Unicode forms since the last other step
    for step in steps:
        if step["type"] in _OF_UNICODE:
            forms.append(step)
            continue
        follows = forms and step["type"] == "Precompiled"
        growth *= _mapped(forms, step) if follows else _grown(forms) * _rewritten(step)
        forms = []
    return growth * _grown(forms)


def _grown(forms: Sequence[_Step]) -> int:
    return max((_OF_UNICODE[form["type"]] for form in forms), default=1)


def _mapped(forms: Sequence[_Step], charsmap: _Step) -> float:
    """The largest growth of one character by Unicode forms followed by a charsmap.

    A charsmap is usually built from these forms and adds little to them. Whether this one does is
    measured on the characters that grow by more than two. Across the border of two characters it
    adds at most its longest replacement.
    """
    longest = _rewritten(charsmap)
    if (product := _grown(forms) * longest) <= 2 * longest:
        return product
    steps = {"type": "Sequence", "normalizers": [*forms, charsmap]}
    normalizer = _without_vocabulary(_File(normalizer=msgspec.Raw(msgspec.json.encode(steps))))
    found = max(len(normalizer.normalizer.normalize_str(one)) for one in _growing())
    return min(product, max(2 * longest, found + longest))


@cache
def _growing() -> Sequence[str]:
    """The characters that NFKC or NFKD turn into more than two."""
    signs = (chr(code) for code in (*range(0xD800), *range(0xE000, 0x20000)))
    return [sign for sign in signs if len(unicodedata.normalize("NFKD", sign)) > 2]


def _rewritten(step: _Step) -> float:
    """The largest growth of one character by a normalizer with settings in the file."""
    kind = step["type"]
    if kind == "Prepend":  # once for each text between added tokens
        return 1 + len(step["prepend"])
    if kind == "Precompiled":
        return _longest(str(step["precompiled_charsmap"]))
    if kind == "BertNormalizer":
        return _WITH_BLANKS
    if kind == "ByteLevel":
        return _BYTES_OF_ONE
    content, literal = len(step["content"]), step["pattern"].get("String")
    if literal:
        return max(1.0, content / len(literal))
    if _CONSUMING.fullmatch(step["pattern"].get("Regex", "")):
        return max(1.0, content)
    # The pattern may match before each character and at the end, like an empty text.
    return 1.0 + content


def _pre_tokenized(step: _Step) -> float:
    """The largest growth of one character by a pre_tokenizer."""
    if step["type"] == "ByteLevel":
        return _BYTES_OF_ONE + bool(step["add_prefix_space"])
    return 2 if step["type"] == "Metaspace" else 1


def _longest(charsmap: str) -> int:
    """The length of the longest replacement in a charsmap. The first number is the size of a table
    in bytes; the replacements follow it, each ended by a zero (sentencepiece, normalizer.cc)."""
    found = base64.b64decode(charsmap)
    texts = found[4 + int.from_bytes(found[:4], "little") :].split(b"\0")
    return max(1, *(len(text.decode(errors="replace")) for text in texts))


def _special_tokens(step: _Step) -> int:
    """The number of special tokens that a post_processor adds to a pair."""
    if step["type"] != "TemplateProcessing":
        return 0 if step["type"] == "ByteLevel" else 4
    added = {name: len(token["ids"]) for name, token in step["special_tokens"].items()}
    counts = []
    for pieces in (step["single"], step["pair"]):
        names = [piece["SpecialToken"]["id"] for piece in pieces if "SpecialToken" in piece]
        texts = [piece["Sequence"]["id"] for piece in pieces if "Sequence" in piece]
        _refuse(len(texts) - len(set(texts)), 0, "repetitions of a text in its post_processor")
        counts.append(sum(added[name] for name in names))
    return max(counts)
