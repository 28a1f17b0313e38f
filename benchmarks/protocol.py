"""The protocol between bench and candidates. Standard library only, for any environment.

A candidate gets a JSON object of Setting's fields (candidates/__main__.py) and answers HTTP at the
setting's port: GET /health with 200 once it can score, POST /rerank {"query", "passages"} with
{"scores"} (raw logits in the order of the passages) or with another status. Servers that are
themselves candidates keep the contracts that they have (sessions.py).
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, SupportsFloat

# Anything that `float` takes, NumPy's and PyTorch's scalars too.
Score = Callable[[str, list[str]], Iterable[SupportsFloat]]


@dataclass(frozen=True)
class Setting:
    """What a candidate is told.

    `checkpoint` is a folder that transformers reads with trust_remote_code; `graph` one with
    model.onnx and tokenizer/, or empty; `work` a folder to write to. `template` contains {query}
    and {passage}, or is None where the tokenizer joins the pair. `options` are those of the
    candidate's row.
    """

    checkpoint: str
    graph: str
    work: str
    template: str | None
    max_tokens: int
    threads: int
    port: int
    options: dict[str, Any]


def templated(template: str, query: str, passage: str) -> str:
    """The text of a pair, for families with a template."""
    head, tail = template.split("{passage}")
    return head.replace("{query}", query) + passage + tail


def answer(score: Score, port: int) -> None:
    """Answer one request after another in this thread, until the process is ended."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # connections persist
        # A reply is two writes: the second one would wait for the first one's acknowledgement.
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            self._reply(200, {"status": "ok"})

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            try:
                found = [float(one) for one in score(asked["query"], asked["passages"])]
            except Exception as error:  # reported by the bench, whatever a library raises
                self._reply(500, {"error": f"{type(error).__name__}: {error}"[:500]})
            else:
                self._reply(200, {"scores": found})

        def _reply(self, status: int, message: dict[str, Any]) -> None:
            content = json.dumps(message).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_request(self, *_: object) -> None:
            """Log no request: there are many."""

    HTTPServer(("127.0.0.1", port), Handler).serve_forever()
