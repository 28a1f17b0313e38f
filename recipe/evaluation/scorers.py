"""Scorers return logits for a query's passages, from a checkpoint, an artifact or an endpoint.

All three build a pair in the same way: one template, one token limit, the passage's end cut off.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from recipe.addresses import public_address
from recipe.config import EvalConfig
from recipe.errors import BadConfig, BadInput
from recipe.evaluation.vision import VisionCheckpointScorer
from rerank_client import Passage as Document
from rerank_client import RerankClient, RerankError, nim
from runtime.manifest import MANIFEST_FILE, MODEL_FILE
from runtime.opening import open_ranker
from runtime.requests import Passage, RankRequest

# The setting of eval and compare that names the variable of an endpoint's key.
KEY_SETTING = "nim_api_key_env"
_HASH_DIGITS = 16
_UNAUTHORIZED = (401, 403)
_Item = TypeVar("_Item")
_HASH_CHUNK_BYTES = 8 << 20


class Scorer(Protocol):
    """Scores passages. Two scorers with the same `identity` give the same scores."""

    source: str
    identity: str

    def score(self, query: str, passages: Sequence[str | Passage]) -> list[float]:
        """A logit for each passage, in their order; images are the bytes of their files."""

    def close(self) -> None:
        """Release memory and connections."""


def is_url(source: str) -> bool:
    """Whether `source` is an endpoint's URL."""
    return source.startswith(("http://", "https://"))


def open_scorer(
    source: str,
    template: str | None,
    max_tokens: int,
    settings: EvalConfig,
    *,
    key_setting: str = KEY_SETTING,
) -> Scorer:
    """The scorer for a URL, an artifact's directory, or a checkpoint (directory or hub id).

    `settings` hold the batch size, the timeout and the name of the key's variable, which the user
    gave as `key_setting`. Raises BadConfig, BadInput, ExportError or ServingError.
    """
    if is_url(source):
        key = key_of(settings.nim_api_key_env, key_setting)
        batch, timeout_s = settings.nim_batch_size, settings.nim_timeout
        return EndpointScorer(source, None, batch, timeout_s, api_key=key, key_setting=key_setting)
    directory = Path(source)
    if (directory / MANIFEST_FILE).is_file() or (directory / MODEL_FILE).is_file():
        return ArtifactScorer(directory, template, max_tokens)
    return CheckpointScorer(source, template, max_tokens, settings.batch_size)


def key_of(variable: str | None, setting: str = KEY_SETTING) -> str | None:
    """The key in the environment variable `variable`, which `setting` names; None for None.

    Raises BadConfig when the variable is not set. The key itself is in no message and no file.
    """
    if variable is None:
        return None
    key = os.environ.get(variable)
    if not key:
        raise BadConfig(
            f"found no key in the environment variable {variable}, which {setting} names; set it, "
            f"or {setting}=null for an endpoint without authentication"
        )
    return key


class CheckpointScorer:
    """Scores with a checkpoint, by PyTorch through transformers, in float32."""

    def __init__(self, source: str, template: str | None, max_tokens: int, batch_size: int) -> None:
        from recipe.training.checkpoint import read_whole  # late: torch

        checkpoint = read_whole(source)
        self.source = source
        self.identity = fingerprint(checkpoint.directory)
        self._model: _TextModel | VisionCheckpointScorer
        if checkpoint.vision is None:
            self._model = _TextModel(checkpoint, template, max_tokens, batch_size)
        else:
            self._model = VisionCheckpointScorer(checkpoint, template, max_tokens)

    def score(self, query: str, passages: Sequence[str | Passage]) -> list[float]:
        """See Scorer."""
        return self._model.score(query, passages)

    def close(self) -> None:
        """See Scorer."""
        del self._model


class _TextModel:
    """A checkpoint's model that takes texts."""

    def __init__(
        self, checkpoint: Any, template: str | None, max_tokens: int, batch_size: int
    ) -> None:
        import torch  # late: an endpoint can be measured without it

        from recipe.training.checkpoint import PairBatcher, load_for_transformers, pad_as

        self._torch = torch
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._batcher = PairBatcher(checkpoint, template, max_tokens)
        self._model = load_for_transformers(checkpoint).eval().to(self._device)
        pad_as(self._model, self._batcher)
        self._batch_size = batch_size

    def score(self, query: str, passages: Sequence[str | Passage]) -> list[float]:
        """A logit for each. Those of similar length share a forward pass, to save padding."""
        texts = [passage if isinstance(passage, str) else passage.text for passage in passages]
        scores = [0.0] * len(texts)
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        with self._torch.inference_mode():
            for some in _parts(order, self._batch_size):
                batch = self._batcher([(query, texts[index]) for index in some])
                moved = {name: tensor.to(self._device) for name, tensor in batch.items()}
                logits = self._model(**moved).logits.float().flatten().tolist()
                for index, logit in zip(some, logits, strict=True):
                    scores[index] = logit
        return scores


class ArtifactScorer:
    """Scores with an artifact, by the runtime that serves it; `engine` None: it chooses."""

    def __init__(
        self, directory: Path, template: str | None, max_tokens: int, engine: str | None = None
    ) -> None:
        self.source = str(directory)
        self._ranker = open_ranker(directory, engine=engine)
        info = self._ranker.info
        self.identity = info.version
        if info.template != template:
            self._ranker.close()
            raise BadInput(
                f"the artifact {directory} was made for the prompt {info.template!r}, eval uses "
                f"{template!r}; wanted the same in finetune, eval and export: set "
                "prompt_template, or export again"
            )
        if max_tokens < info.max_tokens:
            self._ranker.close()
            self._ranker = open_ranker(directory, engine=engine, max_tokens=max_tokens)
        elif max_tokens > info.max_tokens:
            self._ranker.close()
            raise BadInput(
                f"the artifact {directory} takes {info.max_tokens} tokens, eval asks for "
                f"{max_tokens}; lower max_length, or export with a larger maximum"
            )
        self._ranker.warm_up()

    def score(self, query: str, passages: Sequence[str | Passage]) -> list[float]:
        """See Scorer. Raises InputRejected for an image of a model that takes none."""
        return [
            float(x) for x in self._ranker.rank(RankRequest(query, passages, truncate="END")).logits
        ]

    def close(self) -> None:
        """See Scorer."""
        self._ranker.close()


class EndpointScorer:
    """Scores with any endpoint that answers POST /v1/ranking. Its model may change at any time, so
    `identity` is empty. `api_key` is sent as the bearer token, to this URL only; the user names its
    variable in `key_setting`."""

    identity = ""

    def __init__(
        self,
        url: str,
        model: str | None,
        batch_size: int,
        timeout_s: float,
        *,
        api_key: str | None = None,
        key_setting: str = KEY_SETTING,
    ) -> None:
        """Raises BadConfig for an address or key that cannot be sent in a request."""
        self._batch_size, self._key_setting = batch_size, key_setting
        surface = nim(model, truncate="END")
        try:
            self._client = RerankClient(url, api_key=api_key, timeout_s=timeout_s, surface=surface)
        except RerankError as error:
            raise BadConfig(f"the endpoint cannot be called: {error}") from error
        self.source = public_address(url)

    def score(self, query: str, passages: Sequence[str | Passage]) -> list[float]:
        """See Scorer. Raises BadInput when the endpoint returns no ranking."""
        scores: list[float] = []
        for some in _parts(passages, self._batch_size):
            try:
                scores += self._client.rerank(query, map(_document, some)).scores
            except RerankError as error:
                if error.status in _UNAUTHORIZED:
                    raise BadInput(
                        f"the endpoint returned no ranking ({error}); set {self._key_setting} to "
                        "the name of the environment variable that holds its key"
                    ) from error
                raise BadInput(
                    f"the endpoint returned no ranking ({error}); wanted a ranking NIM or "
                    "rerank-serve that is ready: start one with the stage deploy"
                ) from error
        return scores

    def close(self) -> None:
        """See Scorer."""
        self._client.close()


def _document(passage: str | Passage) -> str | Document:
    """A passage as the client takes it."""
    if isinstance(passage, str) or not isinstance(passage.image, bytes):
        return passage if isinstance(passage, str) else passage.text
    return Document(text=passage.text, image=passage.image)


def fingerprint(directory: Path) -> str:
    """A short hash of the files that decide a checkpoint's scores: config, weights, tokenizer."""
    digest = hashlib.sha256()
    names = {"config.json", "processor_config.json", "tokenizer.json", "vocab.txt"}
    found = [p for p in directory.iterdir() if p.suffix == ".safetensors" or p.name in names]
    for path in sorted(found):
        digest.update(f"{path.name} {path.stat().st_size}\n".encode())
        with path.open("rb", buffering=0) as file:
            while chunk := file.read(_HASH_CHUNK_BYTES):
                digest.update(chunk)
    return digest.hexdigest()[:_HASH_DIGITS]


def _parts(items: Sequence[_Item], size: int) -> Iterator[Sequence[_Item]]:
    return (items[start : start + size] for start in range(0, len(items), size))
