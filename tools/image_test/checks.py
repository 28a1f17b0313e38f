"""The checks of the image: of its contents, and of two runs."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tools.image_test.build import CACHE, Image
from tools.image_test.container import Container

# Reached only by a hang.
_READY_S = 300
_STOP_S = 15
_QUESTION = {
    "query": {"text": "What is machine learning?"},
    "passages": [
        {"text": "The weather is nice today"},
        {"text": "Machine learning is a subset of AI"},
        {"text": "Deep learning uses neural networks"},
    ],
}
_ORDER = [1, 2, 0]
_LIMITS = {"RERANK_MAX_PASSAGES": 512, "EMBED_MAX_INPUTS": 8192}


class Report:
    """Counts checks and prints each as it comes."""

    def __init__(self) -> None:
        self.passed = 0
        self.failed = 0

    def add(self, what: str, *, ok: bool, found: object = "") -> bool:
        self.passed += ok
        self.failed += not ok
        sys.stdout.write(f"  ok    {what}\n" if ok else f"  FAIL  {what}: found {found}\n")
        sys.stdout.flush()
        return ok

    def same(self, what: str, found: object, wanted: object) -> bool:
        return self.add(what, ok=found == wanted, found=found)


def check_contents(report: Report, image: Image) -> None:
    """Configuration, and files that must not be left in the image."""
    config = image.config
    report.same("the user is 1000:1000", config["User"], "1000:1000")
    ports = [f"{port}/tcp" for port in (8000, 8001, 8002)]
    report.same("ports 8000, 8001 and 8002 are exposed", sorted(config["ExposedPorts"]), ports)
    limits = [entry for entry in config["Env"] if entry.partition("=")[0] in _LIMITS]
    wanted = [f"{name}={limit}" for name, limit in _LIMITS.items()]
    report.same("requests may be as large as the real NIM's", sorted(limits), sorted(wanted))
    remembered = json.dumps([config, image.history])
    traces = re.findall(r"PIP_\w+|\w+://(?!127\.0\.0\.1)[^\s\"]+", remembered)
    report.same("no registry is in the configuration or history", traces, [])
    left = [
        str(path.relative_to(image.rootfs))
        for pattern in ("etc/pip.conf", "run/secrets", "src", "root/.*/pip", "var/lib/apt/lists/*")
        for path in image.rootfs.glob(pattern)
    ]
    report.same("no pip settings, wheels, sources or package lists are left", left, [])


def check_runs(report: Report, image: Image, artifact: Path | None) -> None:
    """As configured with the artifact baked in; then with any user, port and mounted artifact."""
    mock = {"ENABLE_MOCK_INFERENCE": "1"} if artifact is None else {}
    with Container(image.rootfs, image.config, CACHE / "run.log", env=mock) as container:
        if _check_ready(report, container, image, "as configured"):
            _check_answer(report, container, 8000, expect_order=artifact is not None)
            _check_confinement(report, container)
        _check_stop(report, container)
    other = {"NIM_HTTP_API_PORT": "8123", **(mock or {"NIM_CUSTOM_MODEL": "/mnt"})}
    # The baked copy once more: unlike the original, every user can read it.
    mounted = image.rootfs / "opt/model" if artifact else None
    log = CACHE / "run-other.log"
    with Container(
        image.rootfs, image.config, log, user="54321:0", mounted=mounted, env=other
    ) as container:
        if _check_ready(report, container, image, "any user, port 8123, mounted artifact"):
            _check_answer(report, container, 8123, expect_order=artifact is not None)
        _check_stop(report, container)


def check_embedder(report: Report, image: Image, embedder: Path) -> None:
    """The same image with an embedder mounted, as nv-ingest's embedding service runs it."""
    log, env = CACHE / "run-embed.log", {"NIM_CUSTOM_MODEL": "/mnt"}
    with Container(image.rootfs, image.config, log, mounted=embedder, env=env) as container:
        if _check_ready(report, container, image, "mounted embedder"):
            _check_vectors(report, container)
        _check_stop(report, container)


def _check_ready(report: Report, container: Container, image: Image, what: str) -> bool:
    health = image.config["Healthcheck"]["Test"]
    command = ["sh", "-c", *health[1:]] if health[0] == "CMD-SHELL" else health[1:]
    began = time.monotonic()
    done: subprocess.CompletedProcess[str] | None = None
    while container.running and time.monotonic() - began < _READY_S:
        if container.pid is not None:
            done = container.run(*command)
            if done.returncode == 0:
                break
        time.sleep(0.2)
    ready = done is not None and done.returncode == 0
    return report.add(
        f"{what}: the image's own health check (curl inside) succeeds"
        + (f" after {time.monotonic() - began:.1f} s" if ready else ""),
        ok=ready,
        found=f"{done.stderr.strip() if done else 'no process'}\n{container.last_output}",
    )


def _check_answer(report: Report, container: Container, port: int, *, expect_order: bool) -> None:
    url = f"http://127.0.0.1:{port}/v1/ranking"
    order, printed = _posted(container, url, _QUESTION, "rankings", lambda one: one["index"])
    # The mock's order is arbitrary: it only has to be a permutation.
    report.add(
        f"POST /v1/ranking answers {order}",
        ok=order == _ORDER if expect_order else sorted(order) == [0, 1, 2],
        found=printed,
    )


def _check_vectors(report: Report, container: Container) -> None:
    question = {"input": ["a", "b"], "input_type": "passage", "dimensions": 16}
    url = "http://127.0.0.1:8000/v1/embeddings"
    sizes, printed = _posted(container, url, question, "data", lambda one: len(one["embedding"]))
    report.add(
        f"POST /v1/embeddings answers vectors of {sizes}", ok=sizes == [16, 16], found=printed
    )


def _posted(
    container: Container, url: str, body: object, name: str, read: Callable[[Any], int]
) -> tuple[list[int], str]:
    """What is read of each item of the list `name` in the answer to a POST, no items where it
    cannot be read; and what curl inside prints."""
    options = ("-fsS", "--max-time", "30", "-H", "Content-Type: application/json")
    done = container.run("curl", *options, "--data-binary", "@-", url, given=json.dumps(body))
    try:
        items = [read(item) for item in json.loads(done.stdout)[name]]
    except (ValueError, KeyError, TypeError):
        items = []
    return items, done.stdout or done.stderr


def _check_confinement(report: Report, container: Container) -> None:
    uids = re.findall(r"^Uid:\s+(.*)$", Path(f"/proc/{container.pid}/status").read_text(), re.M)
    report.add("the server runs as 1000", ok=set(uids[0].split()) == {"1000"}, found=uids)
    written = container.run("sh", "-c", "touch /tmp/x && ! touch /opt/model/x")
    report.add("only /tmp can be written", ok=not written.returncode, found=written.stderr)
    importable = [
        name
        for name in ("torch", "transformers", "onnx", "pip")
        if container.run("python", "-c", f"import {name}").returncode == 0
    ]
    report.same("torch, transformers, onnx and pip are absent", importable, [])
    served = container.run("python", "-c", "import server, runtime, onnxruntime")
    report.add("python inside is the server's own", ok=not served.returncode, found=served.stderr)
    compilers = container.run("sh", "-c", "command -v gcc cc g++ make")
    report.same("no compiler is inside", compilers.stdout, "")


def _check_stop(report: Report, container: Container) -> None:
    code, seconds = container.stop()
    report.add(
        f"SIGTERM ends it with exit code 0 after {seconds:.1f} s",
        ok=code == 0 and seconds < _STOP_S,
        found=f"exit code {code}\n{container.last_output}",
    )
