"""The checkpoint's own tokenizer, through transformers: what the runtime's is measured against."""

import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from tokenizers import models
from transformers import (
    CONFIG_MAPPING,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
)

from exporter.answers import Tokens
from exporter.errors import CheckpointRefused
from runtime.errors import ArtifactError
from runtime.manifest import SpecialTokens
from runtime.tokenizer_limits import check_tokenizer

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


class CheckpointTokenizer:
    """Encodes pairs and texts as transformers' users do, sharing no code with the runtime."""

    def __init__(
        self, directory: Path, model_type: str | None, template: str | None, max_tokens: int
    ) -> None:
        self._directory = directory
        with _quiet():
            self._tokenizer = _load(directory, model_type)
        self._tokenizer.truncation_side = "right"
        self._template = template
        self._max_tokens = max_tokens

    def encode(self, query: str, passage: str) -> Tokens:
        """The pair's tokens, unpadded, cut at the passage's end when there are too many."""
        with _quiet():
            if self._template is None:
                found = self._tokenizer(
                    query,
                    passage,
                    truncation="only_second",
                    max_length=self._max_tokens,
                    return_token_type_ids=True,
                )
                return Tokens(found["input_ids"], found["token_type_ids"])
            # The query is filled in last: it must not be searched for inside the passage.
            head, tail = self._template.split("{passage}")
            text = head.replace("{query}", query) + passage + tail
            found = self._tokenizer(text, truncation=True, max_length=self._max_tokens)
        return Tokens(found["input_ids"], None)

    def encode_text(self, text: str) -> Tokens:
        """The tokens of one text, its prefix included, unpadded and cut at its end."""
        with _quiet():
            found = self._tokenizer(
                text, truncation=True, max_length=self._max_tokens, return_token_type_ids=True
            )
        return Tokens(found["input_ids"], found["token_type_ids"])

    def vocabulary(self) -> dict[str, int]:
        """Text → id of every token, added ones included."""
        return dict(self._tokenizer.get_vocab())

    def added_tokens(self) -> list[str]:
        """Texts that stand for one token each: special ones, and those added to the vocabulary."""
        return sorted({*self._tokenizer.get_added_vocab(), *self._tokenizer.all_special_tokens})

    def special_tokens(self, vocabulary: int) -> SpecialTokens:
        """The ids that the tokenizer adds before and after a text, and the one to pad with.

        A pad token past the `vocabulary` of the embeddings, added without resizing them, would
        fail in the engine; EOS or 0 pad as well, as padding is masked.
        """
        bare = self._tokenizer("a", add_special_tokens=False)["input_ids"]
        full = self._tokenizer("a")["input_ids"]
        before, after = _around(full, bare)
        pads = (self._tokenizer.pad_token_id, self._tokenizer.eos_token_id, 0)
        return SpecialTokens(
            bos=before[0] if before else None,
            eos=after[-1] if after else None,
            pad=next(pad for pad in pads if pad is not None and pad < vocabulary),
        )

    def save(self, directory: Path) -> None:
        """Copy the tokenizer's files; make tokenizer.json where the checkpoint has none."""
        directory.mkdir()
        for name in TOKENIZER_FILES:
            if (self._directory / name).is_file():
                shutil.copyfile(self._directory / name, directory / name)
        if not (directory / "tokenizer.json").is_file():
            self._tokenizer.backend_tokenizer.save(str(directory / "tokenizer.json"))


def _load(directory: Path, model_type: str | None) -> Any:
    # AutoTokenizer reads config.json first and stumbles over model types it does not know, such
    # as llama_bidirec; with an empty config it goes by tokenizer_config.json alone.
    config = None if model_type in CONFIG_MAPPING else PreTrainedConfig()
    # transformers 5 makes Unigram tokenizers anew from their vocabulary, with a normalizer of its
    # own; the versions that these models were trained with took tokenizer.json as it is.
    unigram = _is_unigram(directory / "tokenizer.json")
    kind: Any = PreTrainedTokenizerFast if unigram else AutoTokenizer
    try:
        tokenizer = kind.from_pretrained(
            directory, config=config, trust_remote_code=False, local_files_only=True
        )
    except Exception as error:  # a broken tokenizer surfaces as many unrelated classes
        raise CheckpointRefused(
            f"transformers cannot read the tokenizer in {directory} ({error}); wanted "
            "tokenizer.json, or the files of a tokenizer that transformers can convert"
        ) from error
    if not tokenizer.is_fast:
        raise CheckpointRefused(
            f"found the slow tokenizer {type(tokenizer).__name__}, wanted one with tokenizer.json; "
            "convert it with transformers and save it into the checkpoint"
        )
    _refuse_without_vocabulary(directory, tokenizer)
    try:
        # As it came out, of whichever files.
        check_tokenizer(tokenizer.backend_tokenizer.to_str().encode())
    except ArtifactError as error:
        raise CheckpointRefused(str(error)) from error
    return tokenizer


class _TokenizerModel(msgspec.Struct):
    type: str | None = None


class _TokenizerFile(msgspec.Struct):
    model: _TokenizerModel


def _is_unigram(path: Path) -> bool:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_TokenizerFile).model.type == "Unigram"
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return False  # none, or one about which transformers will complain


def _refuse_without_vocabulary(directory: Path, tokenizer: Any) -> None:
    """transformers makes a tokenizer out of nothing, in which every word is unknown."""
    names = {"tokenizer.json"}
    if not isinstance(tokenizer.backend_tokenizer.model, models.Unigram):
        names.update(tokenizer.vocab_files_names.values())
    if not any((directory / name).is_file() for name in names):
        raise CheckpointRefused(
            f"found no vocabulary of the tokenizer in {directory}, wanted "
            f"{', '.join(sorted(names))}; save it there with the version of transformers that it "
            "was trained with"
        )


def _around(full: Sequence[int], bare: Sequence[int]) -> tuple[Sequence[int], Sequence[int]]:
    for start in range(len(full) - len(bare) + 1):
        if full[start : start + len(bare)] == bare:
            return full[:start], full[start + len(bare) :]
    raise CheckpointRefused(
        f"the tokenizer gives {full} with and {bare} without special tokens, wanted the first to "
        "contain the second; check the post-processor in tokenizer.json"
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back warnings about texts longer than the model: cutting them is the point."""
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
