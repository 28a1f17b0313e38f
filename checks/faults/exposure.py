"""Groups 12 and 13: keys, exposure, logs, metrics."""

import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import grpc
import httpx
from prometheus_client.parser import text_string_to_metric_families

from checks.faults.fault import Fault, NotApplicable, expect, refused
from checks.faults.target import PATIENCE_S, Stopwatch, Target, ranking
from checks.serving import Server

_EXPOSURE, _METRICS = "12 exposure", "13 metrics"
_SCRAPE_S = 2.0
_KEY = "Zq7-the-right-key"
_OPEN = {"/health", "/v1/health/live", "/v1/health/ready", "/v2/health/live", "/v2/health/ready"}
_WRONG: dict[str, list[tuple[bytes, bytes]]] = {
    "no key": [],
    "a wrong key": [(b"authorization", b"Bearer wrong")],
    "an empty key": [(b"authorization", b"Bearer")],
    "the key without a scheme": [(b"authorization", _KEY.encode())],
    "another scheme": [(b"authorization", b"Basic " + _KEY.encode())],
    "the key and more": [(b"authorization", f"Bearer {_KEY}x".encode())],
    "the beginning of the key": [(b"authorization", f"Bearer {_KEY[:-1]}".encode())],
    "two headers": [
        (b"authorization", f"Bearer {_KEY}".encode()),
        (b"authorization", b"Bearer wrong"),
    ],
    "a key of 8 KiB": [(b"authorization", b"Bearer " + b"x" * 8192)],
    "a key that is no text": [(b"authorization", b"Bearer \xff\xfe\xc3")],
    "the key in another header": [(b"x-api-key", _KEY.encode())],
}


_GUARDED = {"NIM_REQUIRE_AUTH": "true", "NGC_API_KEY": _KEY, "NIM_LOG_LEVEL": "DEBUG"}


def _routes(server: Server) -> list[tuple[str, str]]:
    """Every documented route, the pages, the second port, and one that does not exist."""
    bearer = {"authorization": f"Bearer {_KEY}"}
    described = server.http.get("/openapi.json", headers=bearer).json()["paths"]
    routes = [
        (method.upper(), server.url + path.replace("{", "").replace("}", ""))
        for path, methods in described.items()
        if path not in _OPEN
        for method in methods
    ]
    more = ("/", "/docs", "/openapi.json", "/metrics", "/v1/metrics", "/nowhere", "//v1/models")
    metrics = ("GET", f"{server.metrics_url}/metrics")
    return [*routes, *(("GET", server.url + path) for path in more), metrics]


def _every_route_asks(target: Target) -> None:
    with target.start(_GUARDED) as server, httpx.Client(timeout=PATIENCE_S) as client:
        routes = _routes(server.ready())
        expect(len(routes) > 20, "few routes are documented")
        for method, url in routes:
            for name, headers in _WRONG.items():
                found = client.request(method, url, headers=headers).status_code
                expect(found == 401, f"{method} {url.rsplit(':', 1)[-1]} with {name}: {found}")
        for path in _OPEN:
            found = client.get(server.url + path).status_code
            expect(found == 200, f"{path} without a key: {found}")
        for spelled in ("Bearer", "bearer", "BEARER"):
            right = {"authorization": f"{spelled} {_KEY}"}
            allowed = client.post(server.url + "/v1/ranking", json=ranking(), headers=right)
            expect(allowed.status_code == 200, f"{spelled}: {allowed.status_code}")
        expect(_KEY not in server.log, "the key is in the log")
        seen = client.get(server.url + "/v1/metadata", headers=right).text
        expect(_KEY not in seen, "the key is in /v1/metadata")


def _grpc_asks(target: Target) -> None:
    with (
        target.start(_GUARDED) as server,
        grpc.insecure_channel(server.ready().grpc_address) as channel,
    ):
        known = ("ServerMetadata", "ModelInfer", "RepositoryIndex", "RepositoryModelLoad")
        for method in (*known, "NobodyServes"):
            call = channel.unary_unary(f"/inference.GRPCInferenceService/{method}")
            for metadata in ((), (("authorization", "Bearer wrong"),)):
                try:
                    call(b"", timeout=PATIENCE_S, metadata=metadata)
                except grpc.RpcError as error:
                    found = error.code()
                    expect(found == grpc.StatusCode.UNAUTHENTICATED, f"{method}: {found}")
                else:
                    expect(False, f"{method} answers without a key")


def _given_key_counts(target: Target) -> None:
    if target.key is None:
        raise NotApplicable("no --key was given")
    wrong = {"authorization": "Bearer wrong"}
    refused(target.post("/v1/ranking", ranking(), headers=wrong), 401, 403)


def _no_cors(target: Target) -> None:
    found = target.post("/v1/ranking", ranking(), headers={"origin": "https://evil.example"})
    expect("access-control-allow-origin" not in found.headers, "any page may read the answers")


def _no_server_versions(target: Target) -> None:
    found = target.http.get("/v1/nothing").headers.get("server", "")
    expect(not any(c.isdigit() for c in found), f"Server: {found}")


def _forwarded(target: Target) -> None:
    headers = {"x-forwarded-for": "1.2.3.4", "x-forwarded-host": "evil", "x-forwarded-proto": "x"}
    found = target.http.get("/v1/models", headers=headers)
    expect(found.status_code == 200, f"found {found.status_code}")
    expect("evil" not in found.text, "a forwarded host is believed")


def _hosts(target: Target) -> None:
    with target.start({"RERANK_ALLOWED_HOSTS": "127.0.0.1,a.test"}) as server:
        server.ready()
        for host, wanted in (("a.test", 200), ("A.TEST:80", 200), ("evil.test", 400)):
            found = server.http.get("/v1/models", headers={"host": host})
            expect(found.status_code == wanted, f"{host}: {found.status_code}")


def _forged_lines(target: Target) -> None:
    """A request's text must not start a line of the log, nor be in it."""
    own = target.inspected()
    forged = "Zq7\n2026-01-01 00:00:00 CRITICAL forged"
    target.rank(forged, forged, query=forged)
    target.http.get("/v1/Zq7%0ACRITICAL%20forged")
    target.post("/v1/ranking", ranking(), headers={"x-request-id": "Zq7 CRITICAL forged"})
    target.post("/v1/ranking", {**ranking(), "model": forged})
    target.send(b"Zq7\x1b[31m")
    time.sleep(0.2)
    expect("CRITICAL forged" not in own.log, "a line of the log can be forged")


def _families(target: Target) -> dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]]:
    url = target.metrics or f"{target.url}/v1/metrics"
    bearer = {"authorization": f"Bearer {target.key}"} if target.key else {}
    found = httpx.get(url, headers=bearer, timeout=PATIENCE_S)
    if found.status_code == 404:
        raise NotApplicable("no metrics")
    return {
        family.name: {(s.name, tuple(sorted(s.labels.items()))): s.value for s in family.samples}
        for family in text_string_to_metric_families(found.text)
    }


def _bounded_labels(target: Target) -> None:
    def count() -> int:
        return sum(len(samples) for samples in _families(target).values())

    for number in range(3):
        target.http.get(f"/unknown/{number}")
        target.post("/v1/ranking", {**ranking(), "model": f"nobody/{number}"})
    before = count()
    for number in range(100):
        target.http.get(f"/unknown/route/{number}")
        target.http.request(f"M{number}", "/v1/ranking")
        target.post("/v1/ranking", {**ranking(), "model": f"nobody/{number}x"})
    grown = count() - before
    expect(grown < 40, f"{grown} new series for 300 made-up names")


def _adds_up(target: Target) -> None:
    name = "nv_inference_request_success"
    before = _families(target)
    if name not in before:
        raise NotApplicable(f"no {name}")
    failed = "nv_inference_request_failure"
    for number in range(10):
        target.rank("good")
        if number % 2:
            target.rank("", truncate="END")
    after = _families(target)
    grown = [sum(after[n].values()) - sum(before[n].values()) for n in (name, failed)]
    expect(grown[0] == 10, f"{grown[0]:.0f} successes for 10 answers")
    expect(grown[1] in (0, 5), f"{grown[1]:.0f} failures for 5 refusals")


def _scraped_under_load(target: Target) -> None:
    watch = Stopwatch(target)
    with ThreadPoolExecutor(8) as pool:
        asked = [
            pool.submit(target.rank, *(f"scrape {n} {i}" for i in range(50))) for n in range(40)
        ]
        watch.expect(_SCRAPE_S, "a scrape", watch.longest(partial(_families, target), asked))


FAULTS: tuple[Fault, ...] = (
    Fault(_EXPOSURE, "every route asks for the key", _every_route_asks),
    Fault(_EXPOSURE, "gRPC asks for the key", _grpc_asks),
    Fault(_EXPOSURE, "the given key counts", _given_key_counts),
    Fault(_EXPOSURE, "no CORS", _no_cors),
    Fault(_EXPOSURE, "no versions in Server", _no_server_versions),
    Fault(_EXPOSURE, "forwarded headers are not believed", _forwarded),
    Fault(_EXPOSURE, "a list of hosts", _hosts),
    Fault(_EXPOSURE, "log lines cannot be forged", _forged_lines),
    Fault(_METRICS, "labels are bounded", _bounded_labels),
    Fault(_METRICS, "counters add up", _adds_up),
    Fault(_METRICS, "scraped under load", _scraped_under_load),
)
