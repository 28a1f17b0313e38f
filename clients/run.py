"""Real clients against a running server of ours."""

import argparse
import os
import subprocess
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, groupby
from pathlib import Path

from checks.here import not_here
from checks.serving import SERVE, Server, ServerFailed
from clients.environment import (
    ENVIRONMENTS,
    ROOT,
    EnvironmentFailed,
    end_of,
    find_python,
    make_environment,
    pinned_version,
)
from clients.one import FAILED, PASSED
from clients.witness import write_witness
from runtime.telemetry import SWITCHES

_CLIENT_TIMEOUT_S = 600
_LOG = ENVIRONMENTS / "server.log"
_VERDICT_CHARACTERS = 80

# Users of small GPUs pin this; here it keeps the texts that are cut cheap on a CPU.
_SHORT = {"NIM_TRITON_MAX_SEQ_LENGTH": "2048", "EMBED_MAX_INPUTS": "8192"}
# What nv-ingest's compose files set on the reranker of small GPUs, with the request limit that
# our images set beside it.
_OVERLAY = _SHORT | {
    "NGC_API_KEY": "ngcapikey",
    "NIM_TRITON_LOG_VERBOSE": "1",
    "NIM_TRITON_MAX_BATCH_SIZE": "1",
    "RERANK_MAX_PASSAGES": "512",
}
# What clients that name no input type need of an asymmetric embedder.
_PASSAGES = _SHORT | {"EMBED_DEFAULT_INPUT_TYPE": "passage"}
_KEYED = _SHORT | {"NIM_REQUIRE_AUTH": "true", "NGC_API_KEY": "not-known-to-probes"}
_IMAGES = {"EMBED_MAX_INPUTS": "8192"}
# Names of the artifacts of a reranker and an embedder.
_TEXT_MODELS, _VISION_MODELS = ("rank", "embed"), ("vl", "vl-embed")


@dataclass(frozen=True)
class Client:
    """`name` is that of its module, and of its requirements and its environment unless it shares
    those of the client `package`. `variables` are set for the server that it is run against, which
    serves `models`; `pythons` are those that its packages admit."""

    name: str
    variables: Mapping[str, str] = field(default_factory=lambda: _SHORT)
    pythons: tuple[str, ...] = ("3.11", "3.12", "3.13", "3.14")
    package: str = ""
    models: tuple[str, str] = _TEXT_MODELS

    @property
    def environment(self) -> str:
        """The name of its requirements and its environment."""
        return self.package or self.name


def _with_images(package: str, *pythons: str) -> Client:
    """The client of that package against the vision models."""
    wanted = {"pythons": pythons} if pythons else {}
    return Client(f"{package}_images", _IMAGES, package=package, models=_VISION_MODELS, **wanted)


# Those that share a server stand together.
CLIENTS = (
    # pymilvus 2.5.10 bounds grpcio at a version without wheels for Python 3.14.
    Client("nv_ingest", _OVERLAY, pythons=("3.11", "3.12", "3.13")),
    Client("haystack", _OVERLAY),
    Client("langchain"),
    Client("llama_index"),
    Client("litellm"),
    Client("openai"),
    Client("cohere"),
    Client("triton"),
    Client("kserve"),
    Client("rerank_client"),
    Client("nemo_retriever", pythons=("3.12",)),
    Client("llama_index_tei", _PASSAGES),
    Client("huggingface_hub", _PASSAGES),
    Client("aiperf", _PASSAGES),
    Client("grpc_probe", _KEYED),
    _with_images("langchain"),
    _with_images("litellm"),
    _with_images("nemo_retriever", "3.12"),
    _with_images("rerank_client"),
)


@dataclass(frozen=True)
class Result:
    """How a client fared: its checks, and why it failed or was skipped."""

    client: Client
    passed: int = 0
    failed: int = 0
    failure: str = ""
    skipped: str = ""

    @property
    def verdict(self) -> str:
        """For the table."""
        if self.skipped:
            return f"skipped: {self.skipped}"
        if self.failure:
            return textwrap.shorten(f"FAILED: {self.failure}", _VERDICT_CHARACTERS)
        return "passed"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the named clients, or all of them. 1 if one failed. A client whose Python is missing is
    skipped and named; the run then ends as not possible here."""
    chosen = _chosen(arguments)
    if not _artifacts(_TEXT_MODELS):
        print("MOCK: artifacts/rank and artifacts/embed are not both there; scores mean nothing")
    results: list[Result] = []
    pythons: dict[str, Path] = {}
    for client in chosen:
        python = find_python(client.pythons)
        if python is None or (missing := _missing_models(client)):
            missing = missing if python else f"found no Python {' or '.join(client.pythons)}"
            results.append(Result(client, skipped=missing))
            continue
        try:
            pythons[client.name] = make_environment(client.environment, python)
        except EnvironmentFailed as error:
            print(f"{client.name}: {error}", flush=True)
            results.append(Result(client, failure="its environment could not be made"))
    ready = [client for client in chosen if client.name in pythons]
    for (models, variables), group in groupby(ready, key=lambda one: (one.models, one.variables)):
        results += _run_together(list(group), _artifacts(models), variables, pythons)
    _print_table(results)
    return _ended(results)


def _ended(results: list[Result]) -> int:
    """The exit status; if nothing failed but clients were skipped, the run is not possible here."""
    if any(result.failure for result in results):
        return 1
    skipped = [f"{one.client.name}: {one.skipped}" for one in results if one.skipped]
    if skipped:
        not_here(f"{len(skipped)} of {len(results)} clients skipped: {'; '.join(skipped)}")
    return 0


def _chosen(arguments: Sequence[str] | None) -> list[Client]:
    names = ", ".join(client.name for client in CLIENTS)
    parser = argparse.ArgumentParser(prog="python -m clients.run", description=__doc__)
    parser.add_argument("client", nargs="*", help=f"some of {names}; all when none is named")
    named = parser.parse_args(arguments).client
    if unknown := [name for name in named if name not in {c.name for c in CLIENTS}]:
        parser.error(f"found {', '.join(unknown)}, wanted some of {names}")
    return [client for client in CLIENTS if not named or client.name in named]


def _artifacts(models: tuple[str, str]) -> list[Path]:
    """The artifacts of reranker and embedder; none when one is missing."""
    found = [ROOT / "artifacts" / name for name in models]
    return found if all((path / "manifest.json").is_file() for path in found) else []


def _missing_models(client: Client) -> str:
    """What a client lacks that a mock cannot stand in for, or ""."""
    if client.models == _TEXT_MODELS or _artifacts(client.models):
        return ""
    return (
        f"found no artifacts/{' and artifacts/'.join(client.models)}, which make test-clients makes"
    )


def _run_together(
    clients: list[Client],
    artifacts: list[Path],
    variables: Mapping[str, str],
    pythons: Mapping[str, Path],
) -> list[Result]:
    variables_text = " ".join(f"{name}={value}" for name, value in variables.items())
    print(f"\nserver: {variables_text}", flush=True)
    given = {**({} if artifacts else {"ENABLE_MOCK_INFERENCE": "1"}), **variables}
    served = zip(("--rank", "--embed"), map(str, artifacts), strict=False)
    options = ("-c", SERVE, *chain.from_iterable(served))
    if clients[0].models == _VISION_MODELS:
        write_witness(*artifacts)
    try:
        with (
            _LOG.open("wb") as log,
            Server(given, *options, stdout=log, stderr=log) as server,
        ):
            server.ready()
            return [_run(client, pythons[client.name], server) for client in clients]
    except ServerFailed as error:
        print(f"{error}\n{end_of(_LOG)}", flush=True)
        return [Result(client, failure="the server did not become ready") for client in clients]


def _run(client: Client, python: Path, server: Server) -> Result:
    """All checks of one client, in its own process."""
    print(f"{client.name}:", flush=True)
    output, errors = (ENVIRONMENTS / f"{client.name}.{kind}" for kind in ("stdout", "stderr"))
    problem = _call(client, python, server, output, errors)
    lines = output.read_text(errors="replace").splitlines()
    passed, failed = ([x for x in lines if x.startswith(word)] for word in (PASSED, FAILED))
    for line in passed + failed:
        print(f"  {line}", flush=True)
    if passed and not problem:
        return Result(client, len(passed))
    print(f"its stderr:\n{end_of(errors)}\nthe server's log:\n{end_of(_LOG)}", flush=True)
    failure = failed[0].removeprefix(FAILED) if failed else problem or "it checked nothing"
    return Result(client, len(passed), len(failed), failure)


def _call(client: Client, python: Path, server: Server, output: Path, errors: Path) -> str:
    """The problem with the process, or "".

    Its output goes to files: nv-ingest leaves a child process that would keep a pipe open.
    """
    command = [str(python), "-W", "ignore", "-m", "clients.one", client.name]
    command += [server.url, server.grpc_address]
    with output.open("wb") as out, errors.open("wb") as err:
        given = {"cwd": ROOT, "env": client_variables(), "stdout": out, "stderr": err}
        try:
            status = subprocess.run(command, timeout=_CLIENT_TIMEOUT_S, **given).returncode
        except subprocess.TimeoutExpired:
            return f"no end within {_CLIENT_TIMEOUT_S} s"
    return f"exit status {status}" if status else ""


def client_variables() -> dict[str, str]:
    """Variables of a client's process: what it needs of the caller's, and no telemetry."""
    needed = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
    return {**needed, **SWITCHES}


def _print_table(results: list[Result]) -> None:
    rows = [("client", "version", "checks", "result")]
    for result in results:
        checks = f"{result.passed}/{result.passed + result.failed}"
        version = pinned_version(result.client.environment)
        rows.append((result.client.name, version, checks, result.verdict))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    print()
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())
    skipped = sum(bool(result.skipped) for result in results)
    failed = sum(bool(result.failure) for result in results)
    print(f"\n{len(results) - failed - skipped} passed, {failed} failed, {skipped} skipped")


if __name__ == "__main__":
    sys.exit(main())
