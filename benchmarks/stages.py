"""`make profile`: the time of one request, stage by stage, over HTTP through a real server.

The figures are the server's own: the header server-timing of every answer, and the metrics before
and after. The rest of a request's time at the client is transport.
"""

import argparse
import http.client
import json
import re
import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any
from urllib.parse import urlsplit

from benchmarks import machine
from benchmarks.environments import ROOT, PeerMissing, interpreter
from benchmarks.progress import print_line, stage
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
    table = markdown(manifest, loads)
    write_atomic(args.out / f"{name}.md", table.encode())
    print_line(f"\n{table}")
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
    load.calls = round(spent["exec_count"])
    server_ms = spent["request_latency_seconds_sum"] / load.requests * 1e3
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
    load.engine_call_ms = spent["compute_infer_duration_us"] / load.calls * 1e-3


def markdown(manifest: Manifest, loads: Sequence[Load]) -> str:
    """The results as a table."""
    facts = machine.describe()
    lines = [
        f"# Where a request's time goes: {manifest.model_id}, {manifest.target}",
        "",
        f"{facts['processor']}, {facts['cores']} cores. Milliseconds a request, and the share of "
        "its time at the client; clients and server share the machine.",
        "",
        "| stage | " + " | ".join(_title(load) for load in loads) + " |",
        "|---|" + "---|" * len(loads),
    ]
    for name in loads[0].stages_ms:
        cells = (f"{x.stages_ms[name]:.3f} ({x.stages_ms[name] / x.total_ms:.1%})" for x in loads)
        lines.append(f"| {name}{' (web)' * (name in WEB)} | {' | '.join(cells)} |")
    totals = (f"**{load.total_ms:.2f}**" for load in loads)
    shares = (f"**{load.web_ms:.2f} ({load.web_ms / load.total_ms:.1%})**" for load in loads)
    lines += [f"| all | {' | '.join(totals)} |", f"| of it web | {' | '.join(shares)} |", ""]
    lines += [
        f"{_title(load)}: {load.requests} requests in {load.calls} engine calls of "
        f"{load.engine_call_ms:.2f} ms.  "
        for load in loads
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
    failures: list[str] = []
    end = time.monotonic() + seconds

    def call(number: int) -> None:
        host = urlsplit(address).netloc
        with closing(http.client.HTTPConnection(host, timeout=600)) as connection:
            while not failures:
                body = bodies[number % len(bodies)]
                number += 1
                began = time.monotonic()
                headers = {"Content-Type": "application/json"}
                connection.request("POST", _PATHS[manifest.kind], body, headers)
                answer = connection.getresponse()
                content = answer.read()
                took = time.monotonic() - began
                if answer.status != 200:
                    failures.append(f"status {answer.status}: {content[:300].decode()}")
                    return
                header = answer.headers["server-timing"]
                timings.append({name: float(spent) for name, spent in _TIMING.findall(header)})
                clocks.append(took)
                if time.monotonic() >= end:
                    return

    threads = [threading.Thread(target=call, args=(number,)) for number in range(load.clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures or not clocks:
        raise SystemExit(f"the server did not answer: {failures or 'see above'}")
    return timings, clocks


def _metrics(address: str) -> dict[str, float]:
    """The sums that the stages need, over all models and the measured routes."""
    with closing(http.client.HTTPConnection(urlsplit(address).netloc, timeout=60)) as connection:
        connection.request("GET", "/v1/metrics")
        text = connection.getresponse().read().decode()
    wanted = {f"nv_inference_{name}": name for name in ("exec_count", *_DURATIONS)}
    found = dict.fromkeys(("request_latency_seconds_sum", *wanted.values()), 0.0)
    for name, labels, value in _SAMPLE.findall(text):
        if name in wanted:
            found[wanted[name]] += float(value)
        elif name in found and any(f'"{path}"' in labels for path in _PATHS.values()):
            found[name] += float(value)
    return found


_DURATIONS = ("compute_infer_duration_us",)


def _draw(file: Path, manifest: Manifest, loads: Sequence[Load]) -> None:
    """Write the figures as JSON, and a plot beside it, made in the plots' environment."""
    content = {
        "title": f"{manifest.model_id}, {manifest.target}",
        "web": WEB,
        "loads": [{"title": _title(load), "stages_ms": load.stages_ms} for load in loads],
    }
    write_atomic(file, json.dumps(content, indent=1).encode() + b"\n")
    try:
        python = interpreter("plots")
    except PeerMissing as missing:
        print_line(f"no picture: {missing}")
        return
    command = [str(python), "-m", "benchmarks.stage_plot", str(file.resolve())]
    if subprocess.run(command, cwd=ROOT, check=False).returncode != 0:
        print_line("no picture: see above")
        return
    print_line(f"written: {file.with_suffix('.md')}, {file.with_suffix('.svg')}")


if __name__ == "__main__":
    with exit_on_refusal():
        main()
