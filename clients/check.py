"""Shared by every client's checks: the server's own answers, comparisons, and a small runner.

Standard library only, because it runs inside each client's environment.
"""

import json
import math
import os
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any
from urllib.request import Request, urlopen

OLD_MODEL = "nvidia/llama-3.2-nv-rerankqa-1b-v2"
NEW_MODEL = "nvidia/llama-nemotron-rerank-1b-v2"
OLD_EMBEDDER = "nvidia/llama-3.2-nv-embedqa-1b-v2"
NEW_EMBEDDER = "nvidia/llama-nemotron-embed-1b-v2"
# As Triton names the served models, whatever name was asked for.
TRITON_RANKER = "nvidia_llama_nemotron_rerank_1b_v2"
TRITON_EMBEDDER = "nvidia_llama_nemotron_embed_1b_v2"
# The variable with the server's gRPC address, for the client's process.
GRPC_VARIABLE = "OPEN_RERANK_GRPC"

PASSED = "check passed: "
FAILED = "check failed: "

# Logits of one passage may differ by this much between batches; closer ones count as ties.
_TOLERANCE = 1e-3
_VECTOR_TOLERANCE = 1e-5
_TIMEOUT_S = 120

Check = Callable[[str], None]


def get(url: str | Request) -> Any:
    """The JSON that the server answers."""
    with urlopen(url, timeout=_TIMEOUT_S) as reply:
        return json.load(reply)


def own_logits(base_url: str, query: str, passages: Sequence[str]) -> list[float]:
    """The server's own logits, one passage per request, independent of any client's batches and
    order of passages."""
    return [_own_logit(base_url, query, passage) for passage in passages]


def own_relevances(base_url: str, query: str, passages: Sequence[str]) -> list[float]:
    """The sigmoid of `own_logits`."""
    return [1 / (1 + math.exp(-logit)) for logit in own_logits(base_url, query, passages)]


def own_vectors(
    base_url: str, texts: Sequence[str], input_type: str, dimensions: int | None = None
) -> list[list[float]]:
    """The server's own vectors, one text per request."""
    return [_own_vector(base_url, text, input_type, dimensions) for text in texts]


def assert_vectors(found: Sequence[Sequence[float]], wanted: Sequence[Sequence[float]]) -> None:
    """Assert equal vectors in the same order."""
    if [len(vector) for vector in found] != [len(vector) for vector in wanted]:
        raise AssertionError(
            f"found {len(found)} vectors of {len(found[0])}, wanted {len(wanted)} of "
            f"{len(wanted[0])}"
        )
    for place, (ours, theirs) in enumerate(zip(found, wanted, strict=True)):
        far = max(abs(a - b) for a, b in zip(ours, theirs, strict=True))
        if far > _VECTOR_TOLERANCE:
            raise AssertionError(f"vector {place} differs by {far}")


def assert_says(call: Callable[[], object], *words: str) -> None:
    """`call` must fail with an exception whose text, or whose cause's, contains all `words`."""
    try:
        call()
    except Exception as error:
        text = f"{error!r} {error} {error.__cause__!r} {error.__cause__}"
        missing = [word for word in words if word not in text]
        if missing:
            raise AssertionError(f"found no {missing} in {text[:400]!r}") from error
    else:
        raise AssertionError("found no error")


def grpc_address() -> str:
    """host:port of the server's gRPC port."""
    return os.environ[GRPC_VARIABLE]


def assert_ranked(
    order: Sequence[int], logits: Sequence[float], scores: Sequence[float] | None = None
) -> None:
    """Every passage once, best first; `scores` in that order, if the client returns them."""
    if sorted(order) != list(range(len(logits))):
        raise AssertionError(f"found passages {sorted(order)}, wanted each of {len(logits)} once")
    ranked = [logits[index] for index in order]
    for place, (better, worse) in enumerate(pairwise(ranked)):
        if better < worse - _TOLERANCE:
            raise AssertionError(f"passage {order[place]} ({better}) is ranked before a {worse}")
    for found, wanted in zip(scores or (), ranked, strict=scores is not None):
        if abs(found - wanted) > _TOLERANCE:
            raise AssertionError(f"found score {found}, wanted {wanted}")


def assert_too_long(call: Callable[[], object], *, shows_status: bool = True) -> None:
    """`call` must fail, and its exception must give the reason, as langchain's own tests require.

    The status may be in the exception's text or in that of its cause.
    """
    try:
        call()
    except Exception as error:
        text = f"{error} {error.__cause__}"
        if "exceeds maximum allowed" not in text:
            raise AssertionError(f"found no reason in {text[:300]!r}") from error
        if shows_status and "422" not in text and "400" not in text:
            raise AssertionError(f"found no status in {text[:300]!r}") from error
    else:
        raise AssertionError("a text that is too long was ranked")


def main(*checks: Check) -> None:
    """Run `checks` against the base URL on the command line; exit with 1 if one fails."""
    base_url = sys.argv[1].rstrip("/")
    failed = 0
    for check in checks:
        name = (check.__doc__ or check.__name__).strip()
        try:
            check(base_url)
        except Exception as error:
            failed += 1
            print(f"{FAILED}{name}: {type(error).__name__}: {error}", flush=True)
        else:
            print(f"{PASSED}{name}", flush=True)
    sys.exit(1 if failed else 0)


def _own_logit(base_url: str, query: str, passage: str) -> float:
    body = {"query": {"text": query}, "passages": [{"text": passage}], "truncate": "END"}
    (ranking,) = _post(f"{base_url}/v1/ranking", body)["rankings"]
    return float(ranking["logit"])


def _own_vector(base_url: str, text: str, input_type: str, dimensions: int | None) -> list[float]:
    body = {"input": text, "input_type": input_type, "truncate": "END", "dimensions": dimensions}
    (item,) = _post(f"{base_url}/v1/embeddings", body)["data"]
    return [float(value) for value in item["embedding"]]


def _post(url: str, body: object) -> Any:
    headers = {"content-type": "application/json"}
    return get(Request(url, data=json.dumps(body).encode(), headers=headers))
