"""`python -m checks.faults`: one line for each fault, and a line of totals.

Each line is GROUP, FAULT, ok or fail or n/a or late, SECONDS, REASON, separated by tabs. After each
fault an ordinary request must succeed. Without --url a server is started on --rank and --embed;
faults that need to starve or kill a process are n/a with --url. When our own server was late next
to other processes, and nothing failed, the suite ends as not possible here.
"""

import argparse
import sys
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import httpx

from checks.faults import (
    bodies,
    exposure,
    hostile,
    images,
    lifecycle,
    load,
    protocols,
    requests,
    starting,
)
from checks.faults.fault import Broken, Fault, NotApplicable, NotJudged
from checks.faults.target import Target
from checks.here import not_here
from checks.serving import Server
from runtime.manifest import read_manifest

FAULTS: tuple[Fault, ...] = (
    *bodies.FAULTS,
    *requests.FAULTS,
    *load.FAULTS,
    *starting.FAULTS,
    *lifecycle.FAULTS,
    *exposure.FAULTS,
    *protocols.FAULTS,
    *hostile.FAULTS,
    *images.FAULTS,
)
_OWN_BODY_LIMIT_BYTES = 16 << 20
# Longer rows take more than a moment on a small machine.
_OWN_TOKENS = 2048


def main() -> int:
    """0 when nothing failed."""
    chosen = _parser().parse_args()
    counted: Counter[str] = Counter()
    with ExitStack() as stack:
        target = _target(chosen, stack)
        stack.callback(target.close)
        if not target.still_answers():
            print(f"{target.url} returns no ranking", file=sys.stderr)
            return 2
        for fault in FAULTS:
            if not f"{fault.group} {fault.name}".startswith(chosen.only):
                continue
            began = time.monotonic()
            verdict, reason = _judge(fault, target)
            seconds = time.monotonic() - began
            counted[verdict] += 1
            print(f"{fault.group}\t{fault.name}\t{verdict}\t{seconds:.2f}\t{reason}", flush=True)
    totals = " ".join(f"{verdict}={counted[verdict]}" for verdict in ("ok", "fail", "n/a", "late"))
    print(f"total\t{totals}")
    if counted["fail"]:
        return 1
    if counted["late"]:
        not_here(f"{counted['late']} not judged, other processes used the machine; total {totals}")
    return 0


def _judge(fault: Fault, target: Target) -> tuple[str, str]:
    try:
        fault.run(target)
    except NotApplicable as reason:
        return "n/a", str(reason)
    except NotJudged as reason:
        return "late", str(reason)
    except (Broken, httpx.HTTPError, OSError, RuntimeError) as error:
        return "fail", " ".join(f"{type(error).__name__}: {error}".split())[:300]
    if not target.still_answers():
        return "fail", "an ordinary request fails afterwards"
    return "ok", ""


def _target(chosen: argparse.Namespace, stack: ExitStack) -> Target:
    if chosen.url:
        return Target(
            chosen.url.rstrip("/"),
            key=chosen.key,
            body_limit_bytes=chosen.body_limit,
            max_passages=chosen.max_passages,
            grpc=chosen.grpc,
            metrics=chosen.metrics,
        )
    tokens = min(_OWN_TOKENS, read_manifest(chosen.rank).max_tokens)
    given = {
        "NIM_HTTP_BODY_LIMIT_BYTES": str(_OWN_BODY_LIMIT_BYTES),
        "RERANK_MAX_PASSAGES": str(chosen.max_passages),
        "NIM_REQUEST_TIMEOUT_S": "15",
        "MAX_SEQUENCE_LENGTH": str(tokens),
        "RERANK_HEADER_TIMEOUT_S": "3",
        "RERANK_MODEL_DIR": str(chosen.rank.resolve()),
        **({"EMBED_MODEL_DIR": str(chosen.embed.resolve())} if chosen.embed else {}),
    }
    own = stack.enter_context(Server(given)).ready()
    return Target(
        own.url,
        body_limit_bytes=_OWN_BODY_LIMIT_BYTES,
        max_passages=chosen.max_passages,
        grpc=own.grpc_address,
        metrics=f"{own.metrics_url}/metrics",
        rank_dir=chosen.rank,
        vision_dir=chosen.vision.resolve() if chosen.vision else None,
        model={"NIM_CUSTOM_MODEL": str(chosen.rank.resolve())},
        own=own,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m checks.faults",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--url", help="a running server, such as http://localhost:8000")
    parser.add_argument("--key", help="its bearer token")
    parser.add_argument("--grpc", help="host:port of its KServe v2 gRPC service")
    parser.add_argument("--metrics", help="URL of its Prometheus metrics")
    parser.add_argument("--body-limit", type=int, default=64 << 20, help="bytes of a body")
    parser.add_argument("--max-passages", type=int, default=512, help="passages of a request")
    parser.add_argument("--rank", type=Path, default=Path("artifacts/rank"), help="our own: model")
    parser.add_argument("--embed", type=Path, help="our own: embedder beside it")
    parser.add_argument("--vision", type=Path, help="our own: a reranker that takes images")
    parser.add_argument("--only", default="", help="prefix of the faults to run: group and name")
    return parser


if __name__ == "__main__":
    sys.exit(main())
