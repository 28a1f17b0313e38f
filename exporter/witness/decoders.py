"""transformers' own classifiers and language models of one text, as the witnesses of decoders."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from exporter.answers import Tokens
from exporter.errors import NoWitness
from exporter.witness.base import (
    RankWitness,
    Values,
    complete_weights,
    one_logit,
    row_of,
    trying,
)
from exporter.witness.files import modules_of, read

# Their types in config.json.
DECODERS = ("llama", "mistral", "qwen2", "qwen3")
_LOCAL: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}


class _LogitScore(msgspec.Struct, frozen=True):
    """The config.json of sentence-transformers' module."""

    true_token_id: int
    false_token_id: int | None = None


class _Prompted(RankWitness):
    """transformers' model of a class on the prompt, one row a call. With `apart` query and passage
    each end a part that is tokenised by itself, and nothing is added to them, as in mxbai_rerank
    (MxbaiRerankV2.prepare_inputs)."""

    def __init__(
        self, kind: Any, directory: Path, template: str | None, *, apart: bool = False
    ) -> None:
        with trying(f"transformers cannot load {directory}"), complete_weights():
            self._tokenizer = AutoTokenizer.from_pretrained(directory, **_LOCAL)
            self._model = kind.from_pretrained(directory, dtype=torch.float32, **_LOCAL).eval()
        self.name = f"transformers {transformers.__version__}, {type(self._model).__name__}"
        self._template, self._apart = template, apart
        if apart and self._tokenizer("")["input_ids"]:
            raise NoWitness(
                "its tokenizer adds tokens, which no loader puts around a prompt in parts "
                "(tokenize_apart of the profile)"
            )

    def score(self, query: str, passage: str) -> tuple[Tokens, Values]:
        """See RankWitness."""
        if self._template is None:
            messages = [
                {"role": "query", "content": query},
                {"role": "document", "content": passage},
            ]
            with trying("its chat template renders no pair"):
                text = self._tokenizer.apply_chat_template(messages, tokenize=False)
            parts = [str(text)]
        else:
            # The passage last: nothing is searched for inside a text.
            head, tail = self._template.split("{passage}")
            before, between = head.split("{query}")
            parts = [before + query, between + passage, tail]
        if self._apart:
            read = [self._tokenizer(part, add_special_tokens=False) for part in parts]
            tokens = Tokens([one for found in read for one in found["input_ids"]], None)
        else:
            tokens = Tokens(self._tokenizer("".join(parts))["input_ids"], None)
        return tokens, self.values(tokens)


class ClassifierWitness(_Prompted):
    """The logits of its head: no file says how these models are fed."""

    def __init__(self, directory: Path, template: str, *, apart: bool = False) -> None:
        """Load `directory`; `template` has {query} and {passage}. Raises NoWitness."""
        super().__init__(AutoModelForSequenceClassification, directory, template, apart=apart)

    @torch.inference_mode()
    def values(self, tokens: Tokens) -> Values:
        """See Witness."""
        found = self._model(**row_of(tokens), use_cache=False).logits[0]
        return one_logit(np.asarray(found.numpy(), np.float64))


class JudgeWitness(_Prompted):
    """The next token's logit of the word for relevant, minus that of the other."""

    def __init__(
        self,
        root: Path,
        directory: Path,
        template: str | None,
        words: tuple[str, ...],
        *,
        apart: bool = False,
    ) -> None:
        """Load `directory`; `template` None is the chat template. The LogitScore module of `root`
        says the tokens, else they are `words`. Raises NoWitness."""
        super().__init__(AutoModelForCausalLM, directory, template, apart=apart)
        scorers = [module for module in modules_of(root) if module.type.endswith(".LogitScore")]
        if scorers:
            found = read(root / scorers[0].path / "config.json", _LogitScore, None)
            if found is None:
                raise NoWitness("its LogitScore module has no config.json")
            ids: list[int | None] = [found.true_token_id, found.false_token_id]
        else:
            ids = [self._only_token(word) for word in words]
        self._ids = ids

    def _only_token(self, word: str) -> int:
        found = self._tokenizer.encode(word, add_special_tokens=False)
        if len(found) != 1:
            raise NoWitness(f"it reads the word {word!r} as {len(found)} tokens")
        return int(found[0])

    @torch.inference_mode()
    def values(self, tokens: Tokens) -> Values:
        """See Witness."""
        # Of a vocabulary's logits for every token the last one's alone are needed.
        found = self._model(**row_of(tokens), use_cache=False, logits_to_keep=1)
        logits = found.logits[0, -1]
        relevant, *others = (logits[one] for one in self._ids if one is not None)
        score = relevant - others[0] if others else relevant
        return np.asarray([score.item()], np.float64)


def judges(config: dict[str, Any]) -> bool:
    """Whether config.json is that of a language model, which is asked for its next token."""
    named = config.get("architectures") or [""]
    return str(named[0]).endswith("ForCausalLM")
