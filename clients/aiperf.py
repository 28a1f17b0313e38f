"""aiperf: its ranking endpoints (NIM, TEI, Cohere) and its embedding ones, each answer compared."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clients.check import NEW_EMBEDDER, NEW_MODEL, Server
from clients.texts import FIVE, HUNDRED, QUERY

_CHECKPOINT = Path(__file__).resolve().parent.parent / "embedded" / "rank"
# Its tokenizer comes from the hub or the hub client's cache only.
_TOKENIZER = "open-rerank/tiny"
_REVISION = "0" * 40
_TIMEOUT_S = 300
# It keeps answers only when a file of all of them is requested; no GPU is queried.
_OPTIONS = ("--ui", "none", "--export-level", "raw", "--no-gpu-telemetry", "--no-server-metrics")

_RANKINGS = [
    {
        "texts": [
            {"name": "query", "contents": [f"{QUERY} {number}"]},
            {"name": "passages", "contents": FIVE},
        ]
    }
    for number in range(4)
]
_TEXTS = [{"texts": HUNDRED[begin : begin + 5]} for begin in range(0, 20, 5)]


def _profile(
    url: str, endpoint: str, model: str, requests: Sequence[object], *options: str
) -> list[tuple[Any, Any]]:
    """What it sent for each of the `requests`, and the answer; any failure is an error."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        given, out = folder / "requests.jsonl", folder / "out"
        given.write_text("".join(f"{json.dumps(request)}\n" for request in requests))
        command = [
            *(str(Path(sys.executable).with_name("aiperf")), "profile", "--url", url),
            *("--model", model, "--endpoint-type", endpoint, "--tokenizer", _TOKENIZER),
            *("--input-file", str(given), "--custom-dataset-type", "single_turn"),
            *("--request-count", str(len(requests)), "--output-artifact-dir", str(out)),
            *(*_OPTIONS, *options),
        ]
        offline = {"HF_HUB_CACHE": str(_cache(folder)), "HF_HUB_OFFLINE": "1"}
        subprocess.run(
            command,
            cwd=folder,
            env=os.environ | offline,
            stdout=sys.stderr,
            timeout=_TIMEOUT_S,
            check=True,
        )
        profile = json.loads((out / "profile_export_aiperf.json").read_text())
        assert profile["request_count"]["avg"] == len(requests), profile["request_count"]
        assert not profile["error_summary"], profile["error_summary"]
        lines = (out / "profile_export_raw.jsonl").read_text().splitlines()
    exchanges = [json.loads(line) for line in lines]
    assert len(exchanges) == len(requests), len(exchanges)
    return [(one["payload"], json.loads(one["responses"][0]["text"])) for one in exchanges]


def _cache(folder: Path) -> Path:
    """The hub's cache as after a download of the embedded checkpoint's tokenizer."""
    repository = folder / "hub" / f"models--{_TOKENIZER.replace('/', '--')}"
    snapshot = repository / "snapshots" / _REVISION
    shutil.copytree(_CHECKPOINT, snapshot, ignore=shutil.ignore_patterns("*.safetensors"))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(_REVISION)
    return folder / "hub"


def _order(ranked: list[dict[str, Any]], score: str) -> tuple[list[int], list[float]]:
    return [one["index"] for one in ranked], [one[score] for one in ranked]


def nim_rankings(server: Server) -> None:
    """nim-rankings, /v1/ranking"""
    for sent, answer in _profile(server.url, "nim-rankings", NEW_MODEL, _RANKINGS):
        server.assert_ranked(FIVE, *_order(answer["rankings"], "logit"), sent["query"]["text"])


def tei_rankings(server: Server) -> None:
    """hf-tei-rankings, /rerank"""
    for sent, ranked in _profile(server.url, "hf-tei-rankings", "any", _RANKINGS):
        server.assert_relevant(FIVE, *_order(ranked, "score"), sent["query"])


def cohere_rankings(server: Server) -> None:
    """cohere-rankings, /v2/rerank"""
    for sent, answer in _profile(server.url, "cohere-rankings", "any", _RANKINGS):
        server.assert_relevant(FIVE, *_order(answer["results"], "relevance_score"), sent["query"])


def embeddings(server: Server) -> None:
    """embeddings, /v1/embeddings, without an input type; EMBED_DEFAULT_INPUT_TYPE"""
    for sent, answer in _profile(server.url, "embeddings", NEW_EMBEDDER, _TEXTS):
        found = [one["embedding"] for one in answer["data"]]
        server.assert_embedded(sent["input"], found, "passage")


def nim_embeddings(server: Server) -> None:
    """nim-embeddings, /v1/embeddings, input_type query"""
    asked = ("--extra-inputs", "input_type:query")
    for sent, answer in _profile(server.url, "nim-embeddings", NEW_EMBEDDER, _TEXTS, *asked):
        assert sent["input_type"] == "query"
        found = [one["embedding"] for one in answer["data"]]
        server.assert_embedded(sent["input"], found, "query")
