"""Tokenizers of a few hundred tokens, given by rule: a trainer breaks ties by chance."""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from tests.zoo.texts import EXTRA_TOKEN, PASSAGES, QUERY

_WORDS = sorted({word for text in (QUERY, *PASSAGES) for word in text.split()} - {EXTRA_TOKEN})
BRACKETS = {
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "mask_token": "[MASK]",
}
ANGLES = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "cls_token": "<s>",
    "sep_token": "</s>",
    "pad_token": "<pad>",
    "mask_token": "<mask>",
}
BOS, EOS = "<|begin_of_text|>", "<|end_of_text|>"
QWEN_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
# Words, digits, blanks, and signs with the newlines behind them: what the families of Qwen's kind
# have in common.
_SENTENCES = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
LLAMA = {"bos_token": BOS, "eos_token": EOS, "pad_token": EOS}


def word_piece(*, lowercase: bool = True) -> Tokenizer:
    """BERT's; it knows the words of the zoo's texts and their characters in both cases."""
    normalizer, splitter = normalizers.BertNormalizer(lowercase=lowercase), _bert_splitter()
    words = {
        word
        for text in _WORDS
        for cased in (text, text.lower())
        for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(cased))
    }
    letters = {letter for word in words for letter in word}
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted(words | letters)]
    pieces += [f"##{letter}" for letter in sorted(letters)]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocab=vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(pieces[:5])
    tokenizer.post_processor = _bracketed(tokenizer)
    return tokenizer


def byte_level(
    special: Sequence[str],
    *,
    single: str,
    pair: str,
    normalizer: normalizers.Normalizer | None,
    spelled: Sequence[str] = (),
    splitter: pre_tokenizers.PreTokenizer | None = None,
) -> Tokenizer:
    """Byte-level BPE whose merges spell some words from their beginnings, those `spelled` too. The
    `splitter` is GPT-2's if none is named."""
    words = ("Ġlearning", "Ġthe", "Ġnetworks", "assage", "query", "ing", *spelled)
    merges = list(dict.fromkeys(_merges(words)))
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = dict.fromkeys([*special, *alphabet, *(left + right for left, right in merges)])
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    bytes_of = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=splitter is None)
    tokenizer.pre_tokenizer = (
        pre_tokenizers.Sequence([splitter, bytes_of]) if splitter else bytes_of
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(special))
    tokenizer.post_processor = processors.TemplateProcessing(
        single=single, pair=pair, special_tokens=[(s, vocabulary[s]) for s in special]
    )
    return tokenizer


def llama(*, adds_eos: bool = False) -> Tokenizer:
    """Begins a text with BOS."""
    end = f" {EOS}" if adds_eos else ""
    return byte_level(
        [BOS, EOS], single=f"{BOS} $A{end}", pair=f"{BOS} $A {BOS} $B{end}", normalizer=None
    )


def qwen(*, adds_eos: bool = False) -> Tokenizer:
    """Adds nothing to a text, or what embeddings are taken from; its thoughts are added tokens that
    are not special. The end of a sentence and the newline behind it are one token, as in Qwen's."""
    single, pair = ("$A <|endoftext|>", "$A $B <|endoftext|>") if adds_eos else ("$A", "$A $B")
    tokenizer = byte_level(
        QWEN_SPECIAL,
        single=single,
        pair=pair,
        normalizer=normalizers.NFC(),
        spelled=("yes", "no", "Judge", ".Ċ", "?Ċ"),
        splitter=pre_tokenizers.Split(Regex(_SENTENCES), "isolated"),
    )
    tokenizer.add_tokens([AddedToken(word, normalized=False) for word in ("<think>", "</think>")])
    return tokenizer


def roberta() -> Tokenizer:
    """RoBERTa's."""
    tokenizer = byte_level(
        ["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        normalizer=None,
    )
    tokenizer.post_processor = processors.RobertaProcessing(
        ("</s>", 2), ("<s>", 0), trim_offsets=True, add_prefix_space=False
    )
    return tokenizer


def modernbert() -> Tokenizer:
    """ModernBERT's, whose mask token takes the blanks before it."""
    tokenizer = byte_level(
        ["[PAD]", "[UNK]", "[CLS]", "[SEP]"],
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B [SEP]",
        normalizer=normalizers.NFC(),
    )
    tokenizer.add_special_tokens([AddedToken("[MASK]", lstrip=True)])
    return tokenizer


def xlm_roberta() -> Tokenizer:
    """XLM-R's, as transformers 5 saves it for a checkpoint without a table of characters."""
    return _bridged(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])


def camembert() -> Tokenizer:
    """CamemBERT's, which keeps the places of fairseq's first tokens unused."""
    unused = ["<s>NOTUSED", "<pad>", "</s>NOTUSED", "<unk>", "<unk>NOTUSED"]
    return _bridged([*unused, "<s>", "</s>", "<mask>"])


def _bridged(special: list[str]) -> Tokenizer:
    """Unigram's words; </s> </s> stands between the texts of a pair."""
    tokenizer = _unigram(special, "<unk>")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[(token, special.index(token)) for token in ("<s>", "</s>")],
    )
    return tokenizer


def deberta() -> Tokenizer:
    """DeBERTa v3's, as transformers 5 saves it."""
    tokenizer = _unigram(["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"], "[UNK]")
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Replace(Regex(r"\s{2,}|[\n\r\t]"), " "),
            normalizers.NFC(),
            normalizers.Strip(left=False, right=True),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace()])
    tokenizer.post_processor = _bracketed(tokenizer)
    return tokenizer


def older_normalizer(directory: Path) -> None:
    """tokenizer.json as transformers 4 saved it for the families of Unigram: widths of characters
    are made one before words are looked up."""
    path = str(directory / "tokenizer.json")
    tokenizer = Tokenizer.from_file(path)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Strip(), normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]
    )
    tokenizer.save(path)


def sentencepiece_only(name: str) -> Callable[[Path], None]:
    """A sentencepiece model of this name in place of tokenizer.json, with its words."""

    def step(directory: Path) -> None:
        from sentencepiece import sentencepiece_model_pb2  # late: slow

        saved = json.loads((directory / "tokenizer.json").read_text(encoding="utf-8"))
        words = dict(saved["model"]["vocab"])
        special = [token["content"] for token in saved["added_tokens"]]
        model = sentencepiece_model_pb2.ModelProto()
        model.trainer_spec.model_type = model.trainer_spec.UNIGRAM
        model.normalizer_spec.name = "identity"
        pieces = model.SentencePiece
        # As in the families' own: of XLM-R three that control, of DeBERTa four, and one unknown.
        if "[UNK]" in special:
            first = [("[PAD]", pieces.CONTROL), ("[CLS]", pieces.CONTROL)]
            first += [("[SEP]", pieces.CONTROL), ("[UNK]", pieces.UNKNOWN)]
        else:
            first = [("<unk>", pieces.UNKNOWN), ("<s>", pieces.CONTROL), ("</s>", pieces.CONTROL)]
        for piece, kind in first:
            model.pieces.add(piece=piece, score=0.0, type=kind)
        for piece in [word for word in words if word not in special]:
            model.pieces.add(piece=piece, score=words[piece], type=pieces.NORMAL)
        model.trainer_spec.unk_id = [kind for _, kind in first].index(pieces.UNKNOWN)
        model.trainer_spec.vocab_size = len(model.pieces)
        (directory / name).write_bytes(model.SerializeToString())
        (directory / "tokenizer.json").unlink()

    return step


def _bert_splitter() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.BertPreTokenizer()


def _merges(words: Iterable[str]) -> Iterable[tuple[str, str]]:
    return ((word[:end], word[end]) for word in words for end in range(1, len(word)))


def _unigram(special: list[str], unknown: str) -> Tokenizer:
    words = {f"▁{word}" for word in _WORDS}
    letters = {letter for word in words for letter in word}
    scored = [(name, 0.0) for name in special]
    scored += [(word, -4.0) for word in sorted(words - letters)]
    scored += [(letter, -8.0) for letter in sorted(letters)]
    tokenizer = Tokenizer(models.Unigram(scored, unk_id=special.index(unknown)))
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(special)
    return tokenizer


def _bracketed(tokenizer: Tokenizer) -> processors.TemplateProcessing:
    return processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
