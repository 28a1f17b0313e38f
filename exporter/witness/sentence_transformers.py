"""sentence-transformers as the witness; remote code never runs."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from exporter.answers import Tokens
from exporter.errors import NoWitness
from exporter.witness.base import (
    RankWitness,
    Values,
    VectorWitness,
    complete_weights,
    one_logit,
    row_of,
    tokens_of,
    trying,
)
from exporter.witness.files import PROMPT_NAMES, first_prompt
from runtime.postprocess import InputType

_LOCAL: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}
# Whatever the type of the files: see exporter.reference.
_FLOATS: dict[str, Any] = {"dtype": torch.float32}
_OPTIONS: dict[str, Any] = {"device": "cpu", "model_kwargs": _FLOATS, **_LOCAL}
_CANNOT = "sentence-transformers cannot"
# Its names of the poolings that can be requested.
_POOLINGS = {"avg": "mean", "cls": "cls", "last": "lasttoken"}


class CrossEncoderWitness(RankWitness):
    """CrossEncoder(folder).predict, one pair a call, without the last activation."""

    def __init__(self, directory: Path) -> None:
        """Load `directory`; raises NoWitness."""
        import sentence_transformers

        with trying(f"{_CANNOT} load {directory}"), complete_weights():
            self._model = sentence_transformers.CrossEncoder(str(directory), **_OPTIONS)
        self.name = f"sentence-transformers {sentence_transformers.__version__}, CrossEncoder"
        self._inputs = _Inputs(self._model)
        # It has no relevance for two labels; their softmax is the sigmoid of the difference.
        single = self._model.num_labels == 1
        self.activation = type(self._model.activation_fn).__name__.lower() if single else None

    def score(self, query: str, passage: str) -> tuple[Tokens, Values]:
        """See RankWitness."""
        with trying(f"{_CANNOT} score a pair"):
            found = self._model.predict(
                [(query, passage)],
                activation_fn=torch.nn.Identity(),
                batch_size=1,
                show_progress_bar=False,
            )
        return self._inputs.last(), one_logit(np.asarray(found, np.float64).reshape(-1))

    @torch.inference_mode()
    def values(self, tokens: Tokens) -> Values:
        """See Witness."""
        found = self._model(row_of(tokens))["scores"][0].numpy()
        return one_logit(np.asarray(found, np.float64).reshape(-1))


class SentenceTransformerWitness(VectorWitness):
    """SentenceTransformer(folder).encode with the prompt for what the text is, one text a call."""

    def __init__(
        self, directory: Path, prefixes: dict[str, str] | None = None, pooling: str | None = None
    ) -> None:
        """Load `directory`. `prefixes` by input type stand for those that it names, `pooling` for
        the modules that it has none of: see `vector_witness`. Raises NoWitness."""
        import sentence_transformers

        with trying(f"{_CANNOT} load {directory}"), complete_weights():
            given = str(directory) if pooling is None else None
            modules = None if pooling is None else _modules(directory, pooling)
            self._model = sentence_transformers.SentenceTransformer(
                given, modules=modules, **_OPTIONS
            )
        prompts = dict(self._model.prompts)
        found: dict[InputType, str] = {kind: first_prompt(prompts, kind) for kind in PROMPT_NAMES}
        self._prefixes = found if prefixes is None else prefixes
        self.name = f"sentence-transformers {sentence_transformers.__version__}"
        self._inputs = _Inputs(self._model)

    def embed(self, text: str, input_type: InputType | None) -> tuple[Tokens, Values]:
        """See VectorWitness; without a type the folder's default prompt goes before the text."""
        with trying(f"{_CANNOT} embed a text"):
            found = self._model.encode(
                [text],
                # encode_document would take an empty "document" before a "passage" that is there.
                prompt=None if input_type is None else self._prefixes.get(input_type, ""),
                batch_size=1,
                show_progress_bar=False,
                convert_to_numpy=True,
            )
        return self._inputs.last(), np.asarray(found[0], np.float64)

    @torch.inference_mode()
    def values(self, tokens: Tokens) -> Values:
        """See Witness."""
        found = self._model(row_of(tokens))["sentence_embedding"][0]
        return np.asarray(found.numpy(), np.float64)


def _modules(directory: Path, pooling: str) -> list[Any]:
    """The modules of sentence-transformers for a folder without modules.json, with this pooling
    instead of its default, the mean."""
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    body = Transformer(
        str(directory),
        model_kwargs=_FLOATS | _LOCAL,
        processor_kwargs=dict(_LOCAL),
        config_kwargs=dict(_LOCAL),
    )
    return [body, Pooling(body.get_embedding_dimension(), _POOLINGS[pooling])]


class _Inputs:
    """Records the inputs of transformers' model in the first module of `model`."""

    def __init__(self, model: Any) -> None:
        config = model.config
        if config is None:
            raise NoWitness("found no model of transformers in it")
        self._typed = getattr(config, "type_vocab_size", 0) > 1
        self._last: dict[str, Any] = {}
        model[0].register_forward_pre_hook(self._note)

    def _note(self, _: Any, given: tuple[dict[str, Any]]) -> None:
        self._last = dict(given[0])

    def last(self) -> Tokens:
        """The tokens of the last call, which was of one row."""
        return tokens_of(self._last, typed=self._typed)
