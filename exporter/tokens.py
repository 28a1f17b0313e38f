"""The checkpoint's own tokenizer in transformers: the reference for the runtime's tokens."""

import importlib.metadata
import itertools
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import tokenizers
from tokenizers import normalizers
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
)

from exporter.answers import Tokens
from exporter.errors import CheckpointRefused
from exporter.pad_token import without_pad
from exporter.quiet import quiet
from exporter.sentence_files import read_json
from runtime.activation import CONFIG_FILE
from runtime.errors import ArtifactError
from runtime.manifest import SpecialTokens
from runtime.tokenizer_limits import check_tokenizer

TYPES = "token_type_ids"
# Warns of texts longer than the model, which are cut on purpose.
_LONG_TEXTS = "transformers"
# Packages for tokenizers that have only a sentencepiece model.
_SENTENCEPIECE = ("sentencepiece", "protobuf")
SETTINGS_FILES = ("tokenizer_config.json", "special_tokens_map.json")
TOKENIZER_FILES = ("tokenizer.json", *SETTINGS_FILES)


class _Token(NamedTuple):
    """A token's id, the characters that it covers, and whether the tokenizer added it."""

    id: int
    first: int
    last: int
    added: bool


@dataclass(frozen=True)
class CheckpointTokenizer:
    """Encodes pairs and texts as transformers' users do, sharing no code with the runtime.

    `loaded` is what `load_tokenizer` made of `directory`, without the pad token `dropped`; rows
    have at most `max_tokens`. With `apart` query and passage each end a part of the template that
    is tokenised by itself.
    """

    loaded: PreTrainedTokenizerBase
    directory: Path
    template: str | None
    max_tokens: int
    dropped: str | None = None
    apart: bool = False

    def reads_alone(self, *texts: str) -> bool:
        """Whether loaders fail on `texts`, because one contains the dropped pad token."""
        return self.dropped is not None and any(self.dropped in text for text in texts)

    def encode(self, query: str, passage: str) -> tuple[Tokens, bool]:
        """The pair's tokens, unpadded, and whether it was cut: at the passage's end, when there are
        too many."""
        with quiet(_LONG_TEXTS):
            if self.template is None:
                return self._encode(query, passage, truncation="only_second")
            # The query is filled in last: it must not be searched for inside the passage.
            head, tail = self.template.split("{passage}")
            before, between = head.split("{query}")
            parts = [before + query, between + passage, tail]
            read = parts if self.apart else ["".join(parts)]
            ids = self._ids(read)
            if not (cut := len(ids) > self.max_tokens):
                return Tokens(ids, None), cut
            start = len(before + query + between)
            blank = len("".join(parts)[:start].rstrip())
            return self._cut(self._row(read), blank, start, start + len(passage)), cut

    def _ids(self, parts: Sequence[str]) -> list[int]:
        """The ids of one text, or of parts that are tokenised by themselves."""
        if len(parts) == 1:
            whole: list[int] = self.loaded(parts[0])["input_ids"]
            return whole
        before, after = self._added
        read = [self.loaded(part, add_special_tokens=False)["input_ids"] for part in parts]
        return [*before, *itertools.chain(*read), *after]

    def _row(self, parts: Sequence[str]) -> list[_Token]:
        """The same tokens with the characters that they cover, which takes twice as long."""
        whole, row, start = len(parts) == 1, [], 0
        for part in parts:
            found = self.loaded(part, add_special_tokens=whole, return_offsets_mapping=True)
            facts = zip(
                found["input_ids"], found["offset_mapping"], found.sequence_ids(), strict=True
            )
            row += [
                _Token(one, first + start, last + start, added=owner is None)
                for one, (first, last), owner in facts
            ]
            start += len(part)
        if whole:
            return row
        before, after = ([_Token(one, 0, 0, added=True) for one in ids] for ids in self._added)
        return [*before, *row, *after]

    @cached_property
    def _added(self) -> tuple[Sequence[int], Sequence[int]]:
        """The ids that the tokenizer adds before and after a text."""
        bare = self.loaded("a", add_special_tokens=False)["input_ids"]
        return _around(self.loaded("a")["input_ids"], bare)

    def _cut(self, row: Sequence[_Token], blank: int, start: int, stop: int) -> Tokens:
        """The tokens of `row` cut to the limit; the passage is the characters `start` to `stop`, of
        the blanks before it the first is `blank`.

        Tokens are dropped from the end of the passage, then from the end of the text before it.
        Those behind it and those that the tokenizer adds are kept; CheckpointRefused if they alone
        are too many. A token with a character of the template is not the passage's, except for the
        blank before a first word.
        """

        def later(place: int) -> tuple[int, int]:
            token = row[place]
            inside = token.first >= blank and start < token.last <= stop
            turn = 3 if token.added else 0 if inside else 2 if token.last > stop else 1
            return turn, -place

        order = sorted(range(len(row)), key=later)
        dropped = set(order[: len(row) - self.max_tokens])
        if any(later(place)[0] == 2 for place in dropped):
            raise CheckpointRefused(
                f"found a limit of {self.max_tokens} tokens, fewer than the prompt has behind the "
                "passage, which must not be cut: they ask the model; raise --max-tokens, or the "
                "model_max_length of the folder"
            )
        return Tokens([one.id for place, one in enumerate(row) if place not in dropped], None)

    def encode_text(self, text: str) -> tuple[Tokens, bool]:
        """The tokens of one text, its prefix included, unpadded, and whether it was cut, at its
        end."""
        with quiet(_LONG_TEXTS):
            return self._encode(text, truncation=True)

    def _encode(self, *texts: str, truncation: bool | str) -> tuple[Tokens, bool]:
        found = self.loaded(*texts, return_token_type_ids=True)
        if cut := len(found["input_ids"]) > self.max_tokens:
            try:
                found = self.loaded(
                    *texts,
                    truncation=truncation,
                    max_length=self.max_tokens,
                    return_token_type_ids=True,
                )
            except Exception as error:  # tokenizers raises bare Exceptions
                if len(texts) == 1:
                    raise
                raise CheckpointRefused(
                    f"found a limit of {self.max_tokens} tokens, which leaves no room for a "
                    "passage beside a parity text's query; raise --max-tokens, or the "
                    "model_max_length of the folder"
                ) from error
        return Tokens(found["input_ids"], found["token_type_ids"]), cut

    def added_tokens(self) -> list[str]:
        """Texts that stand for one token each: special ones, and those added to the vocabulary."""
        found = {*self.loaded.get_added_vocab(), *self.loaded.all_special_tokens}
        return sorted(found - {self.dropped})

    def special_tokens(self, vocabulary: int) -> SpecialTokens:
        """The ids that the tokenizer adds before and after a text, and the one to pad with.

        A pad token past the `vocabulary` of the embeddings, added without resizing them, would
        fail in the engine; EOS or 0 pad as well, as padding is masked.
        """
        before, after = self._added
        pads = (self.loaded.pad_token_id, self.loaded.eos_token_id, 0)
        return SpecialTokens(
            bos=before[0] if before else None,
            eos=after[-1] if after else None,
            pad=next(pad for pad in pads if pad is not None and pad < vocabulary),
        )

    def save(self, directory: Path) -> None:
        """Write tokenizer.json as transformers reads it, which for some families differs
        from the checkpoint's; copy the settings beside it."""
        directory.mkdir()
        for name in SETTINGS_FILES:
            if not (self.directory / name).is_file():
                continue
            shutil.copyfile(self.directory / name, directory / name)
            if self.dropped is not None:
                settings = read_json(directory / name, dict[str, Any])
                kept = msgspec.json.encode(without_pad(settings, self.dropped))
                (directory / name).write_bytes(kept)
        self.loaded.backend_tokenizer.save(str(directory / "tokenizer.json"))


def load_tokenizer(
    directory: Path, model_type: str | None, *, lower_case: bool = False
) -> PreTrainedTokenizerBase:
    """The tokenizer of `directory` as transformers reads it; with `lower_case` letters are lowered
    before all else unless it does so itself. Raises CheckpointRefused."""
    with quiet(_LONG_TEXTS):
        tokenizer: PreTrainedTokenizerBase = _load(directory, model_type)
    if tokenizer.truncation_side != "right":
        raise CheckpointRefused(
            f"the tokenizer cuts texts at the {tokenizer.truncation_side} (truncation_side in "
            "tokenizer_config.json, or truncation in tokenizer.json), wanted right: a request says "
            "which side of a long text is cut; set it to right, and let requests say START"
        )
    if lower_case:
        _lower(tokenizer.backend_tokenizer)
    if TYPES not in tokenizer.model_input_names:
        _untype(tokenizer.backend_tokenizer)
    return tokenizer


def _load(directory: Path, model_type: str | None) -> Any:
    # AutoTokenizer reads config.json first and stumbles over model types it does not know, such
    # as llama_bidirec; with an empty config it goes by tokenizer_config.json alone.
    config = _config(directory) if model_type in CONFIG_MAPPING else PreTrainedConfig()
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            directory, config=config, trust_remote_code=False, local_files_only=True
        )
    except Exception as error:  # a broken tokenizer surfaces as many unrelated classes
        reason = _explain_load_error(directory, error)
        raise CheckpointRefused(
            f"transformers cannot read the tokenizer in {directory} ({reason}"
            "); wanted tokenizer.json, or the files of a tokenizer that transformers can convert"
        ) from error
    if not tokenizer.is_fast:
        raise CheckpointRefused(
            f"found the slow tokenizer {type(tokenizer).__name__}, wanted one with tokenizer.json; "
            "convert it with transformers and save it into the checkpoint"
        )
    _refuse_without_vocabulary(directory, tokenizer)
    _refuse_chance(tokenizer.backend_tokenizer)
    try:
        # The tokenizer as it was loaded, from whichever files.
        check_tokenizer(tokenizer.backend_tokenizer.to_str().encode())
    except ArtifactError as error:
        raise CheckpointRefused(str(error)) from error
    return tokenizer


def _config(directory: Path) -> PreTrainedConfig | None:
    """What transformers makes of config.json; None where none lies beside the tokenizer."""
    if not (directory / CONFIG_FILE).is_file():
        return None
    try:
        found = AutoConfig.from_pretrained(
            directory, trust_remote_code=False, local_files_only=True
        )
    except Exception as error:  # it checks types and values of keys, by classes of many libraries
        raise CheckpointRefused(
            f"transformers cannot read {CONFIG_FILE} in {directory} ({error}); compare the key "
            "that it names with the config.json of the base model"
        ) from error
    return found if isinstance(found, PreTrainedConfig) else None


def _explain_load_error(directory: Path, error: Exception) -> str:
    """Why transformers cannot read the tokenizer. For a sentencepiece model its own message is
    that tiktoken is missing, which it tries last."""
    models = sorted(path.name for path in directory.glob("*.model"))
    if not models or (directory / "tokenizer.json").is_file():
        return str(error)
    here = {package.name for package in importlib.metadata.distributions()}
    if missing := [name for name in _SENTENCEPIECE if name not in here]:
        return f"{models[0]} is read by the package {missing[0]}; install the extra `export`"
    if "tiktoken" in str(error):
        return f"{models[0]} is not a sentencepiece model (those of tiktoken are not read)"
    return str(error)


def _lower(backend: tokenizers.Tokenizer) -> None:
    """Lower letters as sentence-transformers does for do_lower_case."""
    found = backend.normalizer
    steps = [found] if found else []
    if isinstance(found, normalizers.Sequence):
        steps = list(found)  # type: ignore[call-overload]  # its stub has no __iter__
    if not any(isinstance(step, normalizers.Lowercase) for step in steps):
        backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *steps])


def _untype(backend: tokenizers.Tokenizer) -> None:
    """Give both texts of a pair type 0, which a model without type inputs assumes."""
    settings = msgspec.json.decode(backend.to_str())
    settings["post_processor"] = _with_type_0(settings["post_processor"])
    backend.post_processor = tokenizers.Tokenizer.from_str(
        msgspec.json.encode(settings).decode()
    ).post_processor


def _with_type_0(found: Any) -> Any:
    if isinstance(found, list):
        return [_with_type_0(part) for part in found]
    if not isinstance(found, dict):
        return found
    if found.get("type") == "BertProcessing":  # its file has no types
        return _bert_processing(*found["cls"], *found["sep"])
    return {key: 0 if key == "type_id" else _with_type_0(value) for key, value in found.items()}


def _bert_processing(cls: str, cls_id: int, sep: str, sep_id: int) -> dict[str, Any]:
    """[CLS] A [SEP] B [SEP] as a TemplateProcessing whose tokens all have type 0."""
    first, last = ({"SpecialToken": {"id": token, "type_id": 0}} for token in (cls, sep))
    a, b = ({"Sequence": {"id": text, "type_id": 0}} for text in "AB")
    ids = {cls: cls_id, sep: sep_id}
    return {
        "type": "TemplateProcessing",
        "single": [first, a, last],
        "pair": [first, a, last, b, last],
        "special_tokens": {
            token: {"id": token, "ids": [number], "tokens": [token]}
            for token, number in ids.items()
        },
    }


def _refuse_without_vocabulary(directory: Path, tokenizer: Any) -> None:
    """Without a vocabulary transformers makes a tokenizer in which every word is unknown."""
    names = {"tokenizer.json", *tokenizer.vocab_files_names.values()}
    known = tokenizer.get_vocab().keys() - tokenizer.get_added_vocab().keys() - {""}
    if not known or not any((directory / name).is_file() for name in names):
        raise CheckpointRefused(
            f"found no vocabulary of the tokenizer in {directory}, wanted "
            f"{', '.join(sorted(names))}; save it there with the version of transformers that it "
            "was trained with"
        )


def _refuse_chance(backend: tokenizers.Tokenizer) -> None:
    """BPE may skip merges at random, which is for training: no text has tokens of its own then."""
    if dropout := getattr(backend.model, "dropout", None):
        raise CheckpointRefused(
            f"tokenizer.json has dropout = {dropout:.3g} in its model, wanted none: a text has "
            "other tokens, and another score, each time; set it to null"
        )


def _around(full: Sequence[int], bare: Sequence[int]) -> tuple[Sequence[int], Sequence[int]]:
    for start in range(len(full) - len(bare) + 1):
        if full[start : start + len(bare)] == bare:
            return full[:start], full[start + len(bare) :]
    raise CheckpointRefused(
        f"the tokenizer gives {full} with and {bare} without special tokens, wanted the first to "
        "contain the second; check the post-processor in tokenizer.json"
    )
