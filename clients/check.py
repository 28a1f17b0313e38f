"""The ground under every client's checks: the server's own answer, comparison, and a small runner.

Standard library only, because it runs inside each client's environment.
"""

import json
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any
from urllib.request import Request, urlopen

OLD_MODEL = "nvidia/llama-3.2-nv-rerankqa-1b-v2"
NEW_MODEL = "nvidia/llama-nemotron-rerank-1b-v2"

PASSED = "check passed: "
FAILED = "check failed: "

# Logits of one passage may differ that much between batches; closer ones count as ties.
_TOLERANCE = 1e-3
_TIMEOUT_S = 120

Check = Callable[[str], None]


def get(url: str | Request) -> Any:
    """The JSON that the server answers."""
    with urlopen(url, timeout=_TIMEOUT_S) as reply:
        return json.load(reply)


def own_logits(base_url: str, query: str, passages: Sequence[str]) -> list[float]:
    """What the server itself says, asked one passage at a time, so that no client's batches and
    no order of passages can have a share in it."""
    return [_own_logit(base_url, query, passage) for passage in passages]


def assert_ranked(
    order: Sequence[int], logits: Sequence[float], scores: Sequence[float] | None = None
) -> None:
    """Every passage once, best first; `scores` in that order, where the client hands them on."""
    if sorted(order) != list(range(len(logits))):
        raise AssertionError(f"found passages {sorted(order)}, wanted each of {len(logits)} once")
    ranked = [logits[index] for index in order]
    for place, (better, worse) in enumerate(pairwise(ranked)):
        if better < worse - _TOLERANCE:
            raise AssertionError(f"passage {order[place]} ({better}) stands before a {worse}")
    for found, wanted in zip(scores or (), ranked, strict=scores is not None):
        if abs(found - wanted) > _TOLERANCE:
            raise AssertionError(f"found score {found}, wanted {wanted}")


def assert_too_long(call: Callable[[], object], *, shows_status: bool = True) -> None:
    """`call` must fail, and its exception must say why, as langchain's own test suite asks.

    The status may stand in the exception's text or in that of its cause.
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
    request = Request(
        f"{base_url}/v1/ranking",
        data=json.dumps(body).encode(),
        headers={"content-type": "application/json"},
    )
    (ranking,) = get(request)["rankings"]
    return float(ranking["logit"])
