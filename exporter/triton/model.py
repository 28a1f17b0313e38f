"""The Python model of a Triton repository that `rerank-export triton` wrote: it runs the artifact.

Triton loads this file; the packages `runtime` and `profiles` of open-rerank must be importable by
its Python. It answers texts with the tensors of NVIDIA's reranking NIM, and token ids (from
open-rerank's own server, engine `triton`) with the graph's outputs.

As in open-rerank's own server, ENABLE_MOCK_INFERENCE=1 makes up scores without weights, and
NIM_TRT_ENGINE_HOST_CODE_ALLOWED=1 allows the host code of a version-compatible plan.
"""

import json
import os
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import numpy as np
import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]

from runtime.errors import InputRejected, InputTooLong, ServingError, Unavailable
from runtime.opening import mock_model, open_ranker
from runtime.ranker import Ranker
from runtime.requests import RankRequest
from runtime.text import Encoding

_TRUE = ("1", "true", "yes", "on")
# Requests of one batch that are tokenised at the same time; their rows share engine calls.
_AT_ONCE = 16


class TritonPythonModel:
    """What Triton's Python backend calls; `execute` gets a batch of requests."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the artifact beside this file and check its goldens."""
        if _is_on("ENABLE_MOCK_INFERENCE"):
            self._ranker = cast(Ranker, mock_model("rank"))
        else:
            # The graph runs on the engine that it was proven on.
            host_code = _is_on("NIM_TRT_ENGINE_HOST_CODE_ALLOWED")
            self._ranker = open_ranker(Path(__file__).parent / "artifact", host_code=host_code)
        self._ranker.warm_up()
        self._vocabulary = self._ranker.vocabulary_size
        self._graph_output = _graph_output(json.loads(args["model_config"]))
        self._workers = ThreadPoolExecutor(_AT_ONCE)

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response for each request, in their order."""
        # Only Triton's own thread touches tensors.
        asked = [(_arrays(request), _parameters(request)) for request in requests]
        return [_response(found) for found in self._workers.map(self._answer, asked)]

    def finalize(self) -> None:
        """Close the model."""
        self._workers.shutdown()
        self._ranker.close()

    def _answer(self, asked: tuple[dict[str, Any], dict[str, Any]]) -> Any:
        """Arrays by output name, or the error."""
        arrays, parameters = asked
        try:
            if "input_ids" in arrays:
                return self._compute(arrays)
            return self._rank(arrays, parameters)
        except ServingError as error:
            return error

    def _compute(self, arrays: dict[str, Any]) -> dict[str, Any]:
        """Scores of token rows. They share engine calls with rows of other requests, so invalid
        rows are refused here."""
        ids, type_ids = arrays["input_ids"], arrays.get("token_type_ids")
        masks = arrays.get("attention_mask", np.ones_like(ids)).astype(bool)
        if any(one is not None and one.shape != ids.shape for one in (masks, type_ids)):
            raise InputRejected("wanted attention_mask and token_type_ids in input_ids' shape")
        rows = []
        for index, mask in enumerate(masks):
            if not mask.any():
                raise InputRejected(
                    f"row {index} has no token: attention_mask is 0 throughout, wanted a 1"
                )
            if ids[index][mask].min() < 0 or ids[index][mask].max() >= self._vocabulary:
                raise InputRejected(
                    f"row {index} has an id that is not a token: wanted 0 to {self._vocabulary - 1}"
                )
            types = None if type_ids is None else type_ids[index][mask]
            rows.append(Encoding(ids[index][mask], types))
        longest, most = max(map(len, rows), default=0), self._ranker.info.max_tokens
        if longest > most:
            raise InputTooLong(longest, most)
        return {self._graph_output: self._ranker.compute(rows)[:, None]}

    def _rank(self, arrays: dict[str, Any], parameters: dict[str, Any]) -> dict[str, Any]:
        if not {"query", "passage"} <= arrays.keys():
            raise InputRejected("wanted the inputs query and passage, or input_ids")
        truncate = parameters.get("truncate", "NONE")
        if truncate not in ("NONE", "END", "START"):
            raise InputRejected("parameter truncate: wanted NONE, END or START")
        queries, passages = (_texts(arrays[name]) for name in ("query", "passage"))
        logits = np.empty(len(passages), dtype=np.float32)
        counts = np.empty(len(passages), dtype=np.int32)
        places: dict[str, list[int]] = defaultdict(list)
        for index, query in enumerate(queries):
            places[query].append(index)
        for query, found in places.items():
            ranking = self._ranker.rank(
                RankRequest(query, [passages[i] for i in found], truncate=truncate)
            )
            logits[found], counts[found] = ranking.logits, ranking.token_counts
        return {
            "index": np.arange(len(passages), dtype=np.int32)[:, None],
            "logit": logits[:, None],
            "token_count": counts[:, None],
        }


def _is_on(variable: str) -> bool:
    return os.environ.get(variable, "").strip().lower() in _TRUE


def _graph_output(config: dict[str, Any]) -> str:
    """The graph's output: the configuration names it after those for texts."""
    return str(config["output"][-1]["name"])


def _arrays(request: Any) -> dict[str, Any]:
    return {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}


def _parameters(request: Any) -> dict[str, Any]:
    found = json.loads(request.parameters() or "{}")
    return found if isinstance(found, dict) else {}


def _texts(array: Any) -> list[str]:
    try:
        return [element.decode() for element in array.reshape(-1)]
    except UnicodeDecodeError:
        raise InputRejected("found bytes that are not UTF-8, wanted texts") from None


def _response(found: Any) -> Any:
    if isinstance(found, ServingError):
        code = pb_utils.TritonError.INTERNAL
        if isinstance(found, InputRejected):
            code = pb_utils.TritonError.INVALID_ARG
        elif isinstance(found, Unavailable):
            code = pb_utils.TritonError.UNAVAILABLE
        return pb_utils.InferenceResponse([], error=pb_utils.TritonError(str(found), code))
    return pb_utils.InferenceResponse([pb_utils.Tensor(*item) for item in found.items()])
