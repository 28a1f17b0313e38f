"""What a server's page of metrics says."""

from typing import Any

from server.metrics import refusals as reasons


def values(text: str) -> dict[str, float]:
    """Sample → value, the labels being part of the sample."""
    lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {sample: float(value) for sample, _, value in lines}


def figures(server: Any) -> dict[str, float]:
    """The values of a running server."""
    return values(server.get("/v1/metrics").text)


def total(found: dict[str, float], prefix: str) -> float:
    return sum(value for sample, value in found.items() if sample.startswith(prefix))


def pending(server: Any) -> float:
    """Requests of which rows wait for an engine call."""
    return total(figures(server), "nv_inference_pending_request_count")


def outcomes(found: dict[str, float], kind: str = "rank") -> dict[str, float]:
    def one(name: str) -> float:
        return found[f'rerank_requests_total{{kind="{kind}",outcome="{name}"}}']

    return {name: one(name) for name in ("answered", "failed", "cancelled", "refused")}


def sums(found: dict[str, float]) -> tuple[float, float]:
    """Received, and what the outcomes and the requests in flight come to."""
    flying = found['rerank_requests_in_flight{kind="rank"}']
    received = found['rerank_requests_received_total{kind="rank"}']
    return received, flying + sum(outcomes(found).values())


def refusals(server: Any) -> dict[str, float]:
    """Reason → requests, without those that have none."""
    found = figures(server)
    counted = {reason: found[f'rerank_refusals_total{{reason="{reason}"}}'] for reason in reasons()}
    return {reason: count for reason, count in counted.items() if count}
