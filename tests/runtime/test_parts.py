"""Of a long text that is cut not all is tokenised, with the result of tokenising all of it."""

import itertools
from collections.abc import Sequence

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import models, normalizers, pre_tokenizers, processors

from runtime.engines.mock import byte_tokenizer
from runtime.errors import DeadlineExceeded
from runtime.parts import part
from runtime.requests import EmbedRequest, RankRequest, TokenLimits
from runtime.text import PairEncoder, TextEncoder, unchecked

LETTERS = "abcdehlort"


def bert_tokenizer() -> tokenizers.Tokenizer:
    """As BERT's: blanks have no tokens, and a word of more than a hundred letters has one."""
    words = ["[CLS]", "[SEP]", "[UNK]", ".", "the", "cat", "hello", *LETTERS]
    words += [f"##{letter}" for letter in LETTERS]
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 0), ("[SEP]", 1)],
    )
    return tokenizer


def merging_tokenizer() -> tokenizers.Tokenizer:
    """As GPT's: a blank belongs to the word behind it, and runs of blanks are merged."""
    tokens = ["Ġ", "Ċ", *LETTERS, ".", "ĠĠ", "ĠĠĠĠ", "he", "ll", "hell", "Ġhe"]
    merges = [("Ġ", "Ġ"), ("ĠĠ", "ĠĠ"), ("h", "e"), ("l", "l"), ("he", "ll"), ("Ġ", "he")]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return tokenizer


TOKENIZERS = {"bert": bert_tokenizer(), "merging": merging_tokenizer(), "bytes": byte_tokenizer()}


def plain(tokenizer: tokenizers.Tokenizer, text: str, count: int, last: bool) -> str:
    offsets = tokenizer.encode(text, add_special_tokens=False).offsets
    if len(offsets) <= count:
        return text
    return text[offsets[-count][0] :] if last else text[: offsets[count - 1][1]]


texts = st.lists(
    st.tuples(
        st.sampled_from(["hello", "the cat", "h", "tor.", " ", "\n", "e e"]),
        st.sampled_from([1, 1, 1, 2, 7, 90, 300, 2500, 5000]),
    ),
    max_size=6,
).map(lambda parts: " ".join(piece * times for piece, times in parts))


@settings(deadline=None)
@given(
    name=st.sampled_from(sorted(TOKENIZERS)),
    texts=st.lists(texts, min_size=1, max_size=3),
    count=st.integers(1, 600),
    last=st.booleans(),
)
def test_the_part_is_that_of_the_whole(name: str, texts: list[str], count: int, last: bool) -> None:
    tokenizer = TOKENIZERS[name]
    found = part(tokenizer, texts, count, unchecked, last=last)
    assert found == [plain(tokenizer, text, count, last) for text in texts]


@settings(deadline=None)
@given(
    name=st.sampled_from(sorted(TOKENIZERS)),
    text=texts.filter(str.strip),
    most=st.integers(4, 60),
    last=st.booleans(),
)
def test_a_pair_is_cut_as_if_it_were_tokenised_as_a_whole(
    name: str, text: str, most: int, last: bool
) -> None:
    pairs = PairEncoder(TOKENIZERS[name], None, 10**6)
    whole = pairs.encode(RankRequest("", [text], blanks=True)).rows[0].token_ids.tolist()
    special = 3 if name == "bert" else 0
    first, room = (2, most - special) if special else (0, most)
    body, end = whole[first : len(whole) - (1 if special else 0)], whole[-1:] if special else []
    wanted = whole
    if len(whole) > most:
        wanted = whole[:first] + (body[-room:] if last else body[:room]) + end
    truncate = "START" if last else "END"
    limits = TokenLimits(pair=most)
    found = pairs.encode(RankRequest("", [text], truncate=truncate, limits=limits, blanks=True))  # type: ignore[arg-type]
    assert found.rows[0].token_ids.tolist() == wanted
    assert found.truncated == (len(whole) > most)


FAR = ["hello" + " " * 400 + "cat", "h" * 300 + " cat", "h" * 40_000 + " cat", "the\n" + " " * 9000]


@pytest.mark.parametrize("text", FAR)
@pytest.mark.parametrize("truncate", ["NONE", "END", "START"])
@pytest.mark.parametrize("limits", [TokenLimits(passage=8), TokenLimits(pair=12)])
def test_few_tokens_of_many_characters_are_kept(
    text: str, truncate: str, limits: TokenLimits
) -> None:
    pairs = PairEncoder(TOKENIZERS["bert"], None, 512)
    whole = pairs.encode(RankRequest("the cat", [text]))
    found = pairs.encode(RankRequest("the cat", [text], truncate=truncate, limits=limits))  # type: ignore[arg-type]
    assert found.rows[0].token_ids.tolist() == whole.rows[0].token_ids.tolist()
    assert found.truncated == whole.truncated == 0
    texts = TextEncoder(TOKENIZERS["bert"], {}, 512)
    alone = texts.encode(EmbedRequest([text], truncate=truncate, limits=TokenLimits(pair=8)))  # type: ignore[arg-type]
    assert (
        alone.rows[0].token_ids.tolist()
        == texts.encode(EmbedRequest([text])).rows[0].token_ids.tolist()
    )
    assert alone.truncated == 0


def test_a_long_word_is_not_too_long_for_being_counted_in_pieces() -> None:
    found = PairEncoder(TOKENIZERS["bert"], None, 6).encode(RankRequest("the cat", ["h" * 200_000]))
    assert len(found.rows[0]) == 6


class Watched:
    """Remembers how many characters it was given at a time."""

    def __init__(self, tokenizer: tokenizers.Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.given: list[int] = []

    def encode_batch(
        self, texts: Sequence[str], *, add_special_tokens: bool
    ) -> list[tokenizers.Encoding]:
        self.given.append(sum(map(len, texts)))
        return self._tokenizer.encode_batch(texts, add_special_tokens=add_special_tokens)


def test_of_a_usual_text_little_is_looked_at() -> None:
    watched = Watched(TOKENIZERS["bytes"])
    words = "word " * 1_000_000
    part(watched, [words] * 3, 64, unchecked)  # type: ignore[arg-type]
    part(watched, [words] * 3, 64, unchecked, last=True)  # type: ignore[arg-type]
    assert watched.given == [3 * 1024] * 2


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("vast", [" " * 5_000_000, "h" * 5_000_000])
def test_a_vast_text_is_never_tokenised_as_a_whole(last: bool, vast: str) -> None:
    watched = Watched(TOKENIZERS["bert"])
    (found,) = part(watched, [f"cat{vast}cat"], 8, unchecked, last=last)  # type: ignore[arg-type]
    assert max(watched.given) == len(found) == 1 << 20
    assert sum(watched.given) < 3 << 19
    pairs = PairEncoder(TOKENIZERS["bert"], None, 512)
    cut = pairs.encode(RankRequest("the", [f"cat{vast}cat"], truncate="START" if last else "END"))
    assert cut.truncated == 1


def test_many_texts_are_looked_at_in_parts_between_which_the_work_may_end() -> None:
    watched, looks = Watched(TOKENIZERS["bytes"]), itertools.count()

    def check() -> None:
        if next(looks) == 2:
            raise DeadlineExceeded

    with pytest.raises(DeadlineExceeded):
        part(watched, ["word " * 1000] * 4000, 8, check)  # type: ignore[arg-type]
    assert watched.given == [1024 * 1024] * 2
