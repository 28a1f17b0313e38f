"""Remove a pad token without a row in the embeddings from the tokenizer.

Some training adds one without resizing: no text has it, and padding is masked. A text that contains
it would fail in any loader; without the token it is read as ordinary characters.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from exporter.sentence_files import TOKENIZER_CONFIG, read_json

_PAD = "pad_token"
_MAP = "special_tokens_map.json"
# Special tokens that occur in rows and cannot be removed.
_OTHERS = ("bos_token", "eos_token", "unk_token", "cls_token", "sep_token", "mask_token")


def named_pad(directory: Path) -> str | None:
    """The pad token that the tokenizer's files in `directory` name and use for nothing else, None
    where there is none. Raises CheckpointRefused."""
    for name in (TOKENIZER_CONFIG, _MAP):
        settings = read_json(directory / name, dict[str, Any], absent={})
        if pad := _text(settings.get(_PAD)):
            return None if pad in {_text(settings.get(key)) for key in _OTHERS} else pad
    return None


def drop_pad(tokenizer: PreTrainedTokenizerBase, vocabulary: int) -> str | None:
    """Take the pad token out of `tokenizer` where the embeddings, of so many rows, have none for
    it; the token, None where it stays. Others go on being padded with: see CheckpointTokenizer."""
    pad, number = tokenizer.pad_token, tokenizer.pad_token_id
    others = {getattr(tokenizer, key, None) for key in _OTHERS}
    if pad is None or number is None or number < vocabulary or pad in others:
        return None
    settings = msgspec.json.decode(tokenizer.backend_tokenizer.to_str())
    settings["added_tokens"] = [t for t in settings["added_tokens"] if t["content"] != pad]
    settings["padding"] = None
    tokenizer.pad_token = None
    tokenizer._tokenizer = Tokenizer.from_str(msgspec.json.encode(settings).decode())
    return pad if pad not in tokenizer.get_vocab() else None


def without_pad(settings: Mapping[str, Any], pad: str) -> dict[str, Any]:
    """A file of the tokenizer's settings that does not name `pad`."""
    kept = {key: value for key, value in settings.items() if _text(value) != pad}
    for key, value in kept.items():
        if isinstance(value, list):
            kept[key] = [one for one in value if _text(one) != pad]
        if key == "added_tokens_decoder" and isinstance(value, dict):
            kept[key] = {number: one for number, one in value.items() if _text(one) != pad}
    return kept


def _text(token: object) -> str | None:
    """A token's text, of which files have two spellings; None for anything else."""
    found = token.get("content") if isinstance(token, dict) else token
    return found if isinstance(found, str) else None
