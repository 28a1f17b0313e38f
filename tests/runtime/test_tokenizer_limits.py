"""Tokenizers that make more of a text than any text has: refused before they are given one."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

from runtime.errors import ArtifactError
from runtime.regexes import backtracks
from runtime.text import load_tokenizer
from runtime.tokenizer_limits import _OF_UNICODE, check_tokenizer
from tests.tiny_checkpoints import write_bert, write_llama
from tests.tiny_encoders import write_deberta, write_modernbert, write_roberta, write_xlm_roberta

Replace = normalizers.Replace


def tenfold(count: int) -> list[Any]:
    """`count` replacements, each of the character that the one before it left, by ten."""
    letters = "abcdefghijklm"
    return [Replace(letters[n], letters[n + 1] * 10) for n in range(count)]


def made(**parts: Any) -> Tokenizer:
    model = models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]")
    found = Tokenizer(parts.pop("model", model))
    for name, part in parts.items():
        setattr(found, name, part)
    return found


def charsmap(longest: int) -> dict[str, Any]:
    """A table of no entries, and a replacement of this length."""
    table = bytes(1024)
    raw = len(table).to_bytes(4, "little") + table + b"x" * longest + b"\0"
    text = base64.b64encode(raw).decode()
    return {"type": "Precompiled", "precompiled_charsmap": text}


def with_json(tokenizer: Tokenizer, **changes: Any) -> bytes:
    return json.dumps({**json.loads(tokenizer.to_str()), **changes}).encode()


NORMALIZERS = {
    "seven nested": normalizers.Sequence(tenfold(7)),
    "three, each in a sequence": normalizers.Sequence(
        [normalizers.Sequence([normalizers.Sequence([one])]) for one in tenfold(3)]
    ),
    "one alone": Replace("a", "b" * 101),
    "two letters by many": Replace("ab", "b" * 203),
    "a pattern that is empty": Replace("", "b" * 100),
    "any character": Replace(Regex("."), "b" * 101),
    "perhaps no character": Replace(Regex("a*"), "b" * 100),
    "between characters": Replace(Regex("(?=a)"), "b" * 100),
    "put before": normalizers.Prepend("b" * 100),
    "put before, twice": normalizers.Sequence([normalizers.Prepend("b" * 10)] * 2),
    "Unicode's, fed again": normalizers.Sequence(
        [normalizers.NFKC(), Replace("a", "\ufdfa"), normalizers.NFKC()]
    ),
    "bytes of bytes": normalizers.Sequence([normalizers.ByteLevel()] * 4),
}


@pytest.mark.parametrize("name", NORMALIZERS)
def test_what_multiplies_a_text_is_refused(name: str) -> None:
    raw = made(normalizer=NORMALIZERS[name]).to_str().encode()
    with pytest.raises(ArtifactError, match=r"makes up to .* characters of one .*, wanted 100"):
        check_tokenizer(raw)


def test_normalizers_and_pre_tokenizers_count_together() -> None:
    by_thirty = Replace("a", "b" * 30)
    check_tokenizer(made(normalizer=by_thirty).to_str().encode())
    many = pre_tokenizers.Sequence([pre_tokenizers.ByteLevel(add_prefix_space=False)] * 3)
    check_tokenizer(made(pre_tokenizer=many).to_str().encode())
    together = made(normalizer=by_thirty, pre_tokenizer=pre_tokenizers.ByteLevel())
    for tokenizer in (
        together,
        made(pre_tokenizer=pre_tokenizers.Sequence([pre_tokenizers.ByteLevel()] * 4)),
        made(pre_tokenizer=pre_tokenizers.Sequence([pre_tokenizers.Metaspace()] * 7)),
    ):
        with pytest.raises(ArtifactError, match=r"makes up to .* characters of one"):
            check_tokenizer(tokenizer.to_str().encode())


def test_a_part_without_a_type_counts_as_the_library_reads_it() -> None:
    untyped = [{"pattern": {"String": "a"}, "content": "b" * 101}, {"prepend": "b" * 101}]
    for part in untyped:
        with pytest.raises(ArtifactError, match="makes up to"):
            check_tokenizer(with_json(made(), normalizer=part))


def test_a_charsmap_counts_by_its_longest_replacement() -> None:
    check_tokenizer(with_json(made(), normalizer=charsmap(18)))
    with pytest.raises(ArtifactError, match="makes up to 101 characters of one"):
        check_tokenizer(with_json(made(), normalizer=charsmap(101)))


def test_added_tokens_are_bounded_before_they_are_normalised() -> None:
    """The library normalises them as it reads the file."""
    bomb = normalizers.Sequence(tenfold(7))
    token = {"id": 2, "content": "aaaa", "single_word": False, "lstrip": False, "rstrip": False}
    raw = with_json(
        made(normalizer=bomb), added_tokens=[token | {"normalized": True, "special": False}]
    )
    with pytest.raises(ArtifactError, match=r"makes up to 1e\+07 characters"):
        check_tokenizer(raw)
    for tokens, message in (
        ([{"content": "x"}] * 70_000, "70000 added_tokens"),
        ([{"content": "x" * (2 << 20)}], f"{2 << 20} characters of added_tokens"),
        ([{"content": "x" * 300}], "300 characters of an added token"),
    ):
        with pytest.raises(ArtifactError, match=message):
            check_tokenizer(with_json(made(), added_tokens=tokens))


def test_growth_of_normalized_added_tokens_is_bounded() -> None:
    """All of them are normalised as the file is read."""
    hundredfold = made(normalizer=Replace("a", "b" * 100))
    plain = [{"content": "a" * 100, "normalized": False}] * 400
    tokens = [{"content": "a" * 100, "normalized": True}] * 400
    with pytest.raises(ArtifactError, match="4000000 characters of normalized added_tokens"):
        check_tokenizer(with_json(hundredfold, added_tokens=tokens))
    check_tokenizer(with_json(hundredfold, added_tokens=plain))
    check_tokenizer(with_json(made(), added_tokens=tokens))


@pytest.mark.parametrize(
    ("vocab", "message"),
    [
        ({f"w{n}": n for n in range(9000)}, "9000 entries"),
        ({f"w{n}": n % 3 for n in range(9000)}, "9000 entries"),
        ([[f"w{n}", -1.5] for n in range(9000)], "9001 entries"),
    ],
)
def test_a_vocabulary_is_counted_before_it_is_built(vocab: Any, message: str) -> None:
    """The type that it is for does not exist: the library would say so."""
    raw = with_json(made(), model={"type": "none", "vocab": vocab, "merges": []})
    with pytest.raises(
        ArtifactError, match=f"{message} in its vocabulary, of which the model knows"
    ):
        check_tokenizer(raw, vocabulary=1000)
    check_tokenizer(raw)


@pytest.mark.parametrize("merge", ["a b", ["a", "b"]])
def test_merges_are_counted_before_they_are_built(merge: Any) -> None:
    raw = with_json(made(), model={"type": "none", "vocab": {}, "merges": [merge] * 20_000})
    with pytest.raises(ArtifactError, match="quotes in its merges, for a vocabulary of 1000"):
        check_tokenizer(raw, vocabulary=1000)
    check_tokenizer(raw)


def template(**pieces: list[str]) -> processors.TemplateProcessing:
    return processors.TemplateProcessing(special_tokens=[("[S]", 0)], **pieces)


@pytest.mark.parametrize(
    ("processor", "message"),
    [
        (template(single=["[S]"] * 300 + ["$A"], pair=["$A", "$B"]), "300 special tokens"),
        (template(single=["$A"], pair=["$A", "$B"] + ["[S]"] * 300), "300 special tokens"),
        (template(single=["$A"], pair=["$A", "$B", "$A", "$A"]), "2 repetitions of a text"),
        (
            processors.Sequence([template(single=["[S]"] * 200 + ["$A"], pair=["$A", "$B"])] * 2),
            "400 special tokens",
        ),
        (
            processors.TemplateProcessing(
                single="[S] $A",
                pair="$A $B",
                special_tokens=[{"id": "[S]", "ids": [0] * 300, "tokens": ["x"] * 300}],
            ),
            "300 special tokens",
        ),
        (processors.Sequence([processors.ByteLevel()] * 300), "300 steps"),
    ],
)
def test_what_is_put_around_a_text_is_bounded(processor: Any, message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        check_tokenizer(made(post_processor=processor).to_str().encode())


def test_a_part_of_any_size_is_refused_unread() -> None:
    pieces = [{"SpecialToken": {"id": "[S]", "type_id": 0}}] * 200_000
    with pytest.raises(ArtifactError, match="bytes of post_processor, wanted"):
        check_tokenizer(with_json(made(), post_processor={"single": pieces}))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (models.WordPiece({"u": 0}, unk_token="u", max_input_chars_per_word=10**6), "1000000 as"),
        (models.WordPiece({"u" * 999: 0}, unk_token="u" * 999), "999 characters of unk_token"),
        (models.WordLevel({"u" * 999: 0}, unk_token="u" * 999), "999 characters of unk_token"),
        (models.BPE({}, [], end_of_word_suffix="x" * 999), "999 characters of end_of_word"),
        (
            models.WordPiece({"u": 0}, unk_token="u", continuing_subword_prefix="x" * 999),
            "999 characters of continuing_subword_prefix",
        ),
    ],
)
def test_what_is_copied_for_each_word_is_bounded(model: Any, message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        check_tokenizer(made(model=model).to_str().encode())


LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


GPT_2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re"
    r"|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@pytest.mark.parametrize(
    "pattern",
    [
        "(a+)+b",
        "(a|aa)+b",
        "(a|a)*b",
        "((?#[)a+)+b",
        "(a+){1,100}b",
        "(a{1,50}){1,50}b",
        r"(?<x>a+){0}(\g<x>)+b",
        r"(?<x>(a|a\g<x>)+)b",
        r"q*q*(?!q)\P{L}x",
        "q{0,3000}q{0,3000}(?!q)x",
        "(?:ab)*(?:ab)*(?!ab)c",
        r"(?<=(a|a){20}b)c",
        "(?<=b)(q|qq)+x",
        "([ab]{2,}){3,}!",
        r"(\s|\s\s)+$x",
        r"(?:\w+\s?)*:",
        r"(a+)+b|\p{L}",
        "(?x)a # a comment",
    ],
)
def test_patterns_that_backtrack_are_seen(pattern: str) -> None:
    assert backtracks(pattern)


@pytest.mark.parametrize(
    "pattern",
    [
        LLAMA_3,
        GPT_2,
        O200K,
        r"\p{L}+(?:['’]\p{L}+)*",
        r"\d+(?:[.,]\d+)*|\S",
        r"https?://\S+|\w+(?:-\w+)*|\S",
        "(x(?:a|b+)y)*!",  # its groups end in what they do not begin with
        "(?:q+)+x",  # the library knows that this is q+x
        "(a|b)*",
        r"(?=(\d{3})*\b)",
        "[0-9][0-9][0-9]",
        " {2,}",
        "",
    ],
)
def test_patterns_that_take_one_way_are_taken(pattern: str) -> None:
    assert not backtracks(pattern)


@pytest.mark.parametrize("part", ["normalizer", "pre_tokenizer", "decoder"])
def test_a_vast_pattern_is_refused_unread(part: str) -> None:
    replace = {"type": "Replace", "pattern": {"Regex": "a|" * 9000 + "b"}, "content": ""}
    raw = with_json(made(), **{part: {"type": "Sequence", "any": [[replace]]}})
    with pytest.raises(ArtifactError, match="18001 bytes of patterns in a part, wanted 16384"):
        check_tokenizer(raw)


def test_patterns_that_take_for_ever_are_refused() -> None:
    for parts in (
        {"pre_tokenizer": pre_tokenizers.Split(Regex("(a+)+b"), "isolated")},
        {"normalizer": Replace(Regex("(a*)*b"), "")},
    ):
        with pytest.raises(ArtifactError, match="could take for ever on a short"):
            check_tokenizer(made(**parts).to_str().encode())
    fine = made(pre_tokenizer=pre_tokenizers.Split(Regex(LLAMA_3), "isolated"))
    check_tokenizer(fine.to_str().encode())


def test_the_longest_chains_of_families_are_taken() -> None:
    deberta_lower = [
        {"type": "Lowercase"},
        {"type": "Strip", "strip_left": True, "strip_right": True},
        charsmap(18),
        {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "},
    ]
    tokenizer = made(pre_tokenizer=pre_tokenizers.Metaspace())
    whole = {"type": "Sequence", "normalizers": deberta_lower}
    check_tokenizer(with_json(tokenizer, normalizer=whole))
    albert = [{"type": "NFKD"}, {"type": "StripAccents"}, *deberta_lower]
    whole = {"type": "Sequence", "normalizers": albert}
    check_tokenizer(with_json(tokenizer, normalizer=whole))
    again = {"type": "Sequence", "normalizers": [*albert, *albert]}
    with pytest.raises(ArtifactError, match="makes up to"):
        check_tokenizer(with_json(tokenizer, normalizer=again))
    blanks = normalizers.Sequence([normalizers.NFKC(), Replace(Regex(r"\s+"), " ")])
    tokenizer = made(normalizer=blanks, pre_tokenizer=pre_tokenizers.ByteLevel())
    check_tokenizer(tokenizer.to_str().encode())


@pytest.mark.parametrize(
    "write",
    [write_llama, write_bert, write_xlm_roberta, write_roberta, write_modernbert, write_deberta],
)
def test_tokenizers_of_every_family_are_taken(tmp_path: Path, write: Any) -> None:
    assert load_tokenizer(write(tmp_path) / "tokenizer.json").get_vocab_size() > 0


@pytest.mark.parametrize(
    "normalizer",
    [
        normalizers.Sequence([normalizers.Prepend("▁"), Replace(" ", "▁")]),
        normalizers.Sequence(
            [normalizers.NFC(), Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
        ),
        normalizers.Sequence([normalizers.NFKC(), Replace(Regex(" {2,}"), " ")]),
        normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase(), normalizers.NFKC()]),
        normalizers.BertNormalizer(),
        normalizers.Sequence([normalizers.Lowercase(), normalizers.BertNormalizer()]),
    ],
)
def test_normalizers_that_families_have_are_taken(normalizer: Any) -> None:
    tokenizer = made(normalizer=normalizer, pre_tokenizer=pre_tokenizers.Metaspace())
    check_tokenizer(tokenizer.to_str().encode())


def test_the_figures_hold_for_all_of_unicode() -> None:
    """What a normalizer makes of one character, and of what another made of it."""
    by_name: dict[str, Any] = {name: getattr(normalizers, name)() for name in _OF_UNICODE}
    signs = [chr(code) for code in (*range(1, 0xD800), *range(0xF900, 0x20000))]
    grown = {
        name: [made for sign in signs if len(made := one.normalize_str(sign)) > 1]
        for name, one in by_name.items()
    }
    for name, several in grown.items():
        assert max(map(len, several), default=1) == _OF_UNICODE[name]
    for first, several in grown.items():
        for second, one in by_name.items():
            most = max(_OF_UNICODE[first], _OF_UNICODE[second])
            text = max(several, key=lambda t: len(one.normalize_str(t)), default="")
            assert len(one.normalize_str(text)) <= most, (first, second)


def test_a_bomb_is_refused_where_it_lies(tmp_path: Path) -> None:
    """By what opens artifacts and bare directories."""
    path = tmp_path / "tokenizer.json"
    tokenizer = made(normalizer=normalizers.Sequence(tenfold(7)))
    tokenizer.add_tokens([AddedToken("zz", normalized=True)])
    tokenizer.save(str(path))
    with pytest.raises(
        ArtifactError, match=r"tokenizer\.json makes up to 1e\+07 characters of one"
    ):
        load_tokenizer(path)
    path.write_bytes(b'{"added_tokens": 5}')
    with pytest.raises(ArtifactError, match="cannot read tokenizer"):
        load_tokenizer(path)


def test_a_part_of_any_depth_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    for deep in (200, 50_000):
        part = '{"type":"Sequence","normalizers":[' * deep + "]}" * deep
        text = made().to_str().replace('"normalizer":null', f'"normalizer":{part}')
        path.write_text(text)
        with pytest.raises(ArtifactError, match="cannot read tokenizer"):
            load_tokenizer(path)
