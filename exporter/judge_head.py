"""The head of a judge: a decoder whose score is the logit of one next token, minus that of another.

Of its language model's head two rows count, and their difference is the one row of a classifier;
where the head is tied, they are rows of the table of words. Which tokens they are is said by
sentence-transformers' LogitScore module, or by the profile's words.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import safetensors
import torch
from transformers import PreTrainedTokenizerBase

from exporter.architectures import CROSS_ENCODERS
from exporter.checkpoint import LM_HEAD, TIED, Checkpoint
from exporter.errors import CheckpointRefused
from exporter.model_profile import ChosenProfile
from exporter.sentence_files import module_folder, read_json, read_modules
from exporter.weights import Stored

_SCORER = "LogitScore"
_FEATURE = "causal_logits"
_PROFILE = "words"


class _LogitScore(msgspec.Struct, frozen=True):
    """The config.json of a LogitScore module."""

    true_token_id: int
    false_token_id: int | None = None
    module_input_name: str = _FEATURE


@dataclass(frozen=True)
class _Row(Stored):
    """One row of a table minus another; `other` is None where the row alone counts."""

    row: int
    other: int | None

    def read(self) -> torch.Tensor:
        """See Stored; float32 [1, hidden]."""
        with safetensors.safe_open(self.file, framework="pt") as opened:
            table = opened.get_slice(self.name)
            found: torch.Tensor = table[self.row : self.row + 1].to(torch.float32, copy=True)
            if self.other is None:
                return found
            other: torch.Tensor = table[self.other : self.other + 1].to(torch.float32)
            return found - other


def with_head(
    checkpoint: Checkpoint, profile: ChosenProfile, tokenizer: PreTrainedTokenizerBase
) -> tuple[Checkpoint, str]:
    """The `checkpoint` of a judge with the one row of its head as a classifier's, and where its
    tokens were read. Raises CheckpointRefused."""
    logit = CROSS_ENCODERS[checkpoint.architecture].logit
    ids, origin = _of_module(checkpoint.root), f"{_SCORER} of modules.json"
    if ids is None:
        ids, origin = _of_profile(profile, tokenizer), profile.origin
    vocabulary = checkpoint.config.whole("vocab_size")
    for one in filter(None, ids):
        if one >= vocabulary:
            raise CheckpointRefused(
                f"{origin} names the token {one}, config.json has vocab_size = {vocabulary}; they "
                "are not of one checkpoint"
            )
    weights = dict(checkpoint.weights)
    saved = weights.pop(LM_HEAD, None)
    head = None if saved is None else _row(saved, ids)
    if checkpoint.config.flag(TIED, False):
        body = CROSS_ENCODERS[checkpoint.architecture].trunk
        table = weights[body.prefix + body.words]
        own, head = head, _row(table, ids)
        if saved is not None and own is not None:
            _refuse_other_head(saved, own, table, head)
    assert head is not None  # its size was checked
    weights[logit] = head
    return replace(checkpoint, weights=weights), origin


def _row(table: Stored, ids: tuple[int, int | None]) -> _Row:
    return _Row(table.file, table.name, (1, *table.shape[1:]), *ids)


def _refuse_other_head(saved: Stored, own: _Row, table: Stored, tied: _Row) -> None:
    """Raise CheckpointRefused for a head that was `saved` although config.json ties it to the
    `table` of words, and that scores otherwise: transformers 4 reads the table, 5 the head."""
    if saved.shape != table.shape or not torch.equal(own.read(), tied.read()):
        raise CheckpointRefused(
            f"config.json has {TIED} = true, but {saved.name} differs from {table.name} in the "
            "rows by which the model answers; transformers 4 takes the second, transformers 5 the "
            f"first: write {TIED} = false if the head was trained, else leave {saved.name} out"
        )


def _of_module(root: Path) -> tuple[int, int | None] | None:
    """The tokens of the folder's LogitScore module; None without one."""
    found = [module for module in read_modules(root) or () if module.name == _SCORER]
    if not found:
        return None
    module = read_json(module_folder(root, found[0]) / "config.json", _LogitScore)
    ids = (module.true_token_id, module.false_token_id)
    if module.module_input_name != _FEATURE or any(one is not None and one < 0 for one in ids):
        raise CheckpointRefused(
            f"{found[0].path}/config.json has {msgspec.structs.asdict(module)}, wanted tokens from "
            f"0 and module_input_name = {_FEATURE!r}; save the model with sentence-transformers "
            "again"
        )
    return ids


def _of_profile(
    profile: ChosenProfile, tokenizer: PreTrainedTokenizerBase
) -> tuple[int, int | None]:
    words = profile.facts.words
    if not words:
        raise CheckpointRefused(
            f"nothing says by which tokens this language model answers: found no {_SCORER} in "
            f"modules.json and no {_PROFILE} in the profile {profile.name}; name another --profile"
        )
    relevant, *others = (_token(word, tokenizer, profile) for word in words)
    return relevant, others[0] if others else None


def _token(word: str, tokenizer: PreTrainedTokenizerBase, profile: ChosenProfile) -> int:
    """The one token of `word`, which may begin with a blank; where the vocabulary has it by that
    name too, it must be the same."""
    vocabulary: Mapping[str, int] = tokenizer.get_vocab()
    pieces: list[Any] = tokenizer(word, add_special_tokens=False)["input_ids"]
    read = tokenizer.decode(pieces)
    known = len(pieces) == 1 and str(read).strip() == word.strip()
    if not known or vocabulary.get(word, pieces[0]) != pieces[0]:
        raise CheckpointRefused(
            f"the profile {profile.name} has {word!r} among its {_PROFILE}, of which this "
            f"tokenizer makes {len(pieces)} tokens ({pieces[:5]}), wanted one that is this word: "
            "the model answers by one token; name a profile with words of one token each"
        )
    return int(pieces[0])
