"""What users' own loader makes of a folder: sentence-transformers, on transformers' own models.

Nothing of the exporter is imported here. Everything is computed in float32, one row a call.
"""

import shutil
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from sentence_transformers import CrossEncoder, SentenceTransformer
from transformers import AutoModel, AutoTokenizer, PreTrainedModel

from tests.zoo.answers import Answers, Row, row
from tests.zoo.texts import PAIRS, TEXTS, Kind
from tests.zoo.weights import Step

_FLOATS = {"dtype": torch.float32}


class Witness:
    """`model` is a class of transformers; its rows are what it is called with.

    `loaded` is what sentence-transformers makes of the folder, where that is the witness.
    """

    model: PreTrainedModel
    loaded: Any = None

    def adapt(self, adapter: Path) -> None:
        """Have peft put an adapter around the layers of the model, all of it."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of settings that peft corrects
            found = self.model.load_adapter(str(adapter))
        assert not found.missing_keys | found.unexpected_keys | found.mismatched_keys

    def answers(self) -> Answers:
        """The witness's answers to the zoo's texts."""
        rows: list[Row] = []
        # sentence-transformers calls it past the hooks of modules.
        inner = self.model.forward

        def forward(*positional: Any, **named: Any) -> Any:
            # A model of one token type takes no notice of them.
            typed = getattr(self.model.config, "type_vocab_size", 0) > 1
            types = named.get("token_type_ids") if typed else None
            ids = named["input_ids"][0].tolist()
            rows.append(row(ids, None if types is None else types[0].tolist()))
            return inner(*positional, **named)

        with patch.object(self.model, "forward", forward), torch.inference_mode():
            numbers = self.numbers()
        return Answers(rows, np.asarray(numbers, np.float64))

    def numbers(self) -> list[Any]:
        """A logit for each pair, or a vector for each text."""
        raise NotImplementedError


Making = Callable[[Path], Witness]


class Ranker(Witness):
    """sentence-transformers' CrossEncoder, before its activation."""

    def __init__(self, directory: Path) -> None:
        self.loaded = CrossEncoder(
            str(directory), device="cpu", local_files_only=True, model_kwargs=dict(_FLOATS)
        )
        model = self.loaded.transformers_model
        assert model is not None
        self.model = model

    def numbers(self) -> list[Any]:
        """See Witness."""
        return [self._logit(pair) for pair in PAIRS]

    def _logit(self, pair: tuple[str, str]) -> float:
        if self.loaded.num_labels == 1:
            return float(self.loaded.predict(pair, activation_fn=torch.nn.Identity()))
        against, for_ = self.loaded.predict(pair, apply_softmax=True)
        return float(np.log(for_ / against))


class Embedder(Witness):
    """sentence-transformers' SentenceTransformer."""

    def __init__(self, directory: Path, prompts: dict[str, str] | None = None) -> None:
        """`prompts` stand for those of the folder."""
        self.loaded = SentenceTransformer(
            str(directory), device="cpu", local_files_only=True, model_kwargs=dict(_FLOATS)
        )
        self.loaded.prompts |= prompts or {}
        model = self.loaded.transformers_model
        assert model is not None
        self.model = model

    def numbers(self) -> list[Any]:
        """See Witness."""
        return [self._vector(text, kind) for text, kind in TEXTS]

    def _vector(self, text: str, kind: Kind) -> Any:
        if kind == "query":
            return self.loaded.encode_query(text)
        # encode_document alone stops at "document", which is always there and often empty.
        named = [n for n in ("document", "passage", "corpus") if self.loaded.prompts.get(n)]
        return self.loaded.encode_document(text, prompt_name=named[0] if named else None)


class BareEmbedder(Witness):
    """transformers' body alone, of which no file says how its states become a vector."""

    def __init__(
        self, directory: Path, pooling: str, prefixes: dict[str, str] | None = None
    ) -> None:
        self.model = AutoModel.from_pretrained(directory, local_files_only=True, **_FLOATS)
        self._tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
        self._prefixes = prefixes or {}
        self._pooling = pooling

    def numbers(self) -> list[Any]:
        """See Witness: like sentence-transformers, which leaves vectors as long as they are."""
        return [self._vector(self._prefixes.get(kind, "") + text) for text, kind in TEXTS]

    def _vector(self, text: str) -> Any:
        row = self._tokenizer(text, truncation=True, return_tensors="pt")
        states = self.model(**row).last_hidden_state[0]
        pooled = {"avg": states.mean(0), "cls": states[0], "last": states[-1]}[self._pooling]
        return pooled.numpy()


def copied(make: Making, *steps: Step) -> Making:
    """The witness of a copy of the folder that `steps` make into one that it can load."""

    def made(directory: Path) -> Witness:
        with tempfile.TemporaryDirectory() as copy:
            shutil.copytree(directory, copy, dirs_exist_ok=True)
            for step in steps:
                step(Path(copy))
            return make(Path(copy))

    return made


def adapted(make: Making, base: str = "", adapter: str = "") -> Making:
    """The witness of what lies in the folder `base` with the LoRA adapter in the folder `adapter`,
    whose other files go before the base's."""

    def made(directory: Path) -> Witness:
        with tempfile.TemporaryDirectory() as bare:
            hidden = shutil.ignore_patterns("adapter_*")
            for folder in dict.fromkeys((base, adapter)):
                shutil.copytree(directory / folder, bare, ignore=hidden, dirs_exist_ok=True)
            witness = make(Path(bare))
        (found,) = (directory / adapter).rglob("adapter_config.json")
        witness.adapt(found.parent)
        return witness

    return made
