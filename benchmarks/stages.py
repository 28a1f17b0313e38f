"""`make profile`: the time of one request, stage by stage, over HTTP through a real server.

The figures are the server's own: the header server-timing of every answer, and the metrics before
and after. The rest of a request's time at the client is transport.
"""

import argparse
import http.client
import json
import re
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from statistics import fmean
from typing import Any
from urllib.parse import urlsplit

from benchmarks import machine
from benchmarks.environments import PeerMissing, printed_by
from benchmarks.progress import print_line, stage
from benchmarks.tables import table
from checks.serving import served
from exporter.library_texts import mixed_group
from runtime.manifest import Manifest, read_manifest
from runtime.outputs import exit_on_refusal, write_atomic

RESULTS = Path(__file__).with_name("results")
_MANY_CLIENTS = 16
_TEXTS = {"rank": 40, "embed": 30}
_PATHS = {"rank": "/v1/ranking", "embed": "/v1/embeddings"}
_WARM_S = 2.0
_TIMING = re.compile(r"(\w+);dur=([\d.]+)")
_SAMPLE = re.compile(r"^(\w+)(?:\{([^}]*)\})? (\S+)$", re.MULTILINE)
_LATENCY = "request_latency_seconds_sum"
_CALLS, _ENGINE = "nv_inference_exec_count", "nv_inference_compute_infer_duration_us"
# Stages of the web server; the others belong to the model.
WEB = ("client and socket", "HTTP and routing", "read body", "decode", "hand back", "encode reply")


@dataclass
class Load:
    """Requests of `texts` texts each, sent by `clients` at a time; milliseconds by stage per
    request, `engine_call_ms` per engine call."""

    clients: int
    texts: int
    requests: int = 0
    stages_ms: dict[str, float] = field(default_factory=dict)
    calls: int = 0
    engine_call_ms: float = 0.0

    @property
    def total_ms(self) -> float:
        """The latency of one request at its client."""
        return sum(self.stages_ms.values())

    @property
    def web_ms(self) -> float:
        """The web server's part of it."""
        return sum(self.stages_ms[name] for name in WEB)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure both loads and write a table and a picture."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stages", description=__doc__)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--seconds", type=float, default=10.0, help="for each load (%(default)s)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the folder to write to")
    args = parser.parse_args(arguments)
    manifest = read_manifest(args.artifact)
    loads = [Load(1, _TEXTS[manifest.kind]), Load(_MANY_CLIENTS, 1)]
    models = {manifest.kind: args.artifact.resolve()}
    with served(**models) as address:
        for load in loads:
            with stage(f"{load.clients} clients with {load.texts} texts a request"):
                measure(load, address, manifest, args.seconds)
    name = f"profile-{args.artifact.resolve().name}"
    text = markdown(manifest, loads)
    write_atomic(args.out / f"{name}.md", text.encode())
    print_line(f"\n{text}")
    _draw(args.out / f"{name}.json", manifest, loads)


def measure(load: Load, address: str, manifest: Manifest, seconds: float) -> None:
    """Send the load for `seconds`, after untimed warm-up requests, and store the timings."""
    group = mixed_group(max(load.texts, _MANY_CLIENTS), manifest.max_tokens)
    starts = range(0, len(group.passages), load.texts)
    texts = [group.passages[i : i + load.texts] for i in starts]
    bodies = [_body(manifest.kind, group.query, t) for t in texts if len(t) == load.texts]
    _send(load, address, manifest, bodies, _WARM_S)
    before = _metrics(address)
    timings, clocks = _send(load, address, manifest, bodies, seconds)
    after = _metrics(address)
    spent = {name: after[name] - before[name] for name in after}
    stage_ms = {name: fmean(timing[name] for timing in timings) for name in timings[0]}
    load.requests = len(clocks)
    load.calls = round(spent[_CALLS])
    server_ms = spent[_LATENCY] / load.requests * 1e3
    load.stages_ms = {
        "client and socket": fmean(clocks) * 1e3 - server_ms,
        "HTTP and routing": server_ms - sum(stage_ms.values()),
        "read body": stage_ms["read"],
        "decode": stage_ms["decode"],
        "tokenise": stage_ms["tokenize"],
        "wait": stage_ms["queue"],
        "engine": stage_ms["engine"],
        "hand back": stage_ms["answer"],
        "encode reply": stage_ms["encode"],
    }
    load.engine_call_ms = spent[_ENGINE] / load.calls * 1e-3


def markdown(manifest: Manifest, loads: Sequence[Load]) -> str:
    """The results as a table."""
    facts = machine.describe()
    rows = [
        [
            f"{name}{' (web)' * (name in WEB)}",
            *(f"{x.stages_ms[name]:.3f} ({x.stages_ms[name] / x.total_ms:.1%})" for x in loads),
        ]
        for name in loads[0].stages_ms
    ]
    rows += [
        ["all", *(f"**{x.total_ms:.2f}**" for x in loads)],
        ["of it web", *(f"**{x.web_ms:.2f} ({x.web_ms / x.total_ms:.1%})**" for x in loads)],
    ]
    lines = [
        f"# Where a request's time goes: {manifest.model_id}, {manifest.target}",
        "",
        f"{facts['processor']}, {facts['cores']} cores. Milliseconds a request, and the share of "
        "its time at the client; clients and server share the machine.",
        "",
        table(["stage", *map(_title, loads)], rows),
        "",
        *(
            f"{_title(load)}: {load.requests} requests in {load.calls} engine calls of "
            f"{load.engine_call_ms:.2f} ms.  "
            for load in loads
        ),
    ]
    return "\n".join(lines) + "\n"


def _title(load: Load) -> str:
    clients = "1 client" if load.clients == 1 else f"{load.clients} clients"
    return f"{clients}, {load.texts} text{'s' * (load.texts > 1)} a request"


def _body(kind: str, query: str, texts: Sequence[str]) -> bytes:
    wrapped = [{"text": text} for text in texts]
    bodies: dict[str, dict[str, Any]] = {
        "rank": {"query": {"text": query}, "passages": wrapped, "truncate": "END"},
        "embed": {"input": list(texts), "input_type": "passage", "truncate": "END"},
    }
    return json.dumps(bodies[kind]).encode()


def _send(
    load: Load, address: str, manifest: Manifest, bodies: Sequence[bytes], seconds: float
) -> tuple[list[dict[str, float]], list[float]]:
    """The server-timing of every answer (milliseconds), and its latency (seconds).

    Every client sends at least one request.
    """
    timings: list[dict[str, float]] = []
    clocks: list[float] = []
    end = time.monotonic() + seconds

    def call(client: int) -> None:
        with _connection(address) as connection:
            for body in cycle([*bodies[client % len(bodies) :], *bodies[: client % len(bodies)]]):
                began = time.monotonic()
                headers = {"Content-Type": "application/json"}
                connection.request("POST", _PATHS[manifest.kind], body, headers)
                answer = connection.getresponse()
                content = answer.read()
                clocks.append(time.monotonic() - began)
                if answer.status != 200:
                    raise SystemExit(
                        f"the server did not answer: status {answer.status}: "
                        f"{content[:300].decode()}"
                    )
                header = answer.headers["server-timing"]
                timings.append({name: float(spent) for name, spent in _TIMING.findall(header)})
                if time.monotonic() >= end:
                    return

    with ThreadPoolExecutor(load.clients) as clients:
        list(clients.map(call, range(load.clients)))
    return timings, clocks


def _connection(address: str) -> closing[http.client.HTTPConnection]:
    return closing(http.client.HTTPConnection(urlsplit(address).netloc, timeout=600))


def _metrics(address: str) -> dict[str, float]:
    """The sums that the stages need, over all models and the measured routes."""
    with _connection(address) as connection:
        connection.request("GET", "/v1/metrics")
        text = connection.getresponse().read().decode()
    found = dict.fromkeys((_LATENCY, _CALLS, _ENGINE), 0.0)
    for name, labels, value in _SAMPLE.findall(text):
        measured = any(f'"{path}"' in labels for path in _PATHS.values())
        if name in found and (measured or name != _LATENCY):
            found[name] += float(value)
    return found


def _draw(file: Path, manifest: Manifest, loads: Sequence[Load]) -> None:
    """Write the figures as JSON, and a plot beside it, made in the plots' environment."""
    content = {
        "title": f"{manifest.model_id}, {manifest.target}",
        "web": WEB,
        "loads": [{"title": _title(load), "stages_ms": load.stages_ms} for load in loads],
    }
    write_atomic(file, json.dumps(content, indent=1).encode() + b"\n")
    try:
        printed_by("plots", "benchmarks.plots", str(file.resolve()))
    except PeerMissing as missing:
        print_line(f"no picture: {missing}")
    else:
        print_line(f"written: {file.with_suffix('.md')}, {file.with_suffix('.svg')}")


if __name__ == "__main__":
    with exit_on_refusal():
        main()
