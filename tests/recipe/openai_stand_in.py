"""An OpenAI-compatible endpoint that fails like real ones.

The hash of a request chooses some of FAULTS; the request fails in these ways, one after another,
before it succeeds.
"""

import hashlib
import json
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

FAULTS = ("429", "429-date", "500", "cut", "length", "malformed", "no-json", "short")


class StandIn(ThreadingHTTPServer):
    """Answers requests with `key` while the context is open; with `always`, by that status only.

    `good` counts the successful answers of each request, `failed` the failures by their kind.
    """

    # Leaving does not wait for clients that keep their connections.
    daemon_threads = True
    block_on_close = False

    def __init__(self, key: str, *, always: int = 0) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.key, self.always = key, always
        self.lock = threading.Lock()
        self.asked: dict[str, int] = {}
        self.good: dict[str, int] = {}
        self.failed: dict[str, int] = {}
        self.at_once = self.most_at_once = 0

    @property
    def url(self) -> str:
        """The base URL."""
        return f"http://127.0.0.1:{self.server_port}"

    def __enter__(self) -> "StandIn":
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *failure: object) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, *where: Any) -> None:
        """Ignore clients that were killed."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(*where)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: StandIn

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        given = self.headers.get("authorization", "")
        if given != f"Bearer {self.server.key}":
            self._send(401, json.dumps({"error": f"wrong key: {given}"}).encode())
            return
        if self.server.always:
            self._send(self.server.always, b"{}")
            return
        with self.server.lock:
            self.server.at_once += 1
            self.server.most_at_once = max(self.server.at_once, self.server.most_at_once)
        try:
            self._answer(hashlib.sha256(body).hexdigest(), json.loads(body))
        finally:
            with self.server.lock:
                self.server.at_once -= 1

    def _answer(self, name: str, request: dict[str, Any]) -> None:
        first = int(name[:8], 16)
        faults = [FAULTS[(first + i) % len(FAULTS)] for i in range(first % 4)]
        with self.server.lock:
            turn = self.server.asked[name] = self.server.asked.get(name, 0) + 1
        chat = "messages" in request
        good = json.dumps(_chat(request) if chat else _embeddings(request)).encode()
        fault = faults[turn - 1] if turn <= len(faults) else ""
        with self.server.lock:
            counts = self.server.failed if fault else self.server.good
            counts[fault or name] = counts.get(fault or name, 0) + 1
        if fault == "429":
            self._send(429, b"{}", {"retry-after": "0.05"})
        elif fault == "429-date":
            self._send(429, b"{}", {"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"})
        elif fault == "500":
            self._send(500, b"oops")
        elif fault == "cut":
            self.send_response(200)
            self.send_header("content-length", str(len(good)))
            self.end_headers()
            self.wfile.write(good[: len(good) // 2])
            self.close_connection = True
        elif fault == "length" and chat:
            self._send(200, good.replace(b'"stop"', b'"length"'))
        elif fault == "malformed" and chat:
            self._send(200, json.dumps(_completion("Sure! {pairs: [oops")).encode())
        elif fault == "short" and not chat:
            body = json.loads(good)
            self._send(200, json.dumps({**body, "data": body["data"][:-1]}).encode())
        elif fault:
            self._send(200, b"<html>a proxy's page</html>")
        else:
            self._send(200, good)

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "content-length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def _completion(text: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    return {
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 5},
    }


def _chat(request: dict[str, Any]) -> dict[str, Any]:
    prompt = request["messages"][0]["content"]
    if '"evaluations"' in prompt:
        count = int(re.search(r"each of the (\d+) pairs", prompt)[1])
        mark = {"score": 8, "justification": "it is so"}
        one = dict.fromkeys(("relevance", "accuracy", "context_support", "clarity"), mark)
        one["overall"] = {"score": 9, "assessment": "good"}
        return _completion(json.dumps({"evaluations": [one] * count}))
    if '"pairs"' in prompt:
        segments = re.findall(r"Segment (\d+):\n(.+)", prompt)
        pairs = [
            {
                "question": f"What about {text[:60]} in {number}?",
                "answer": text,
                "query_type": "contextual",
                "reasoning_type": "factual",
                "question_complexity": 3,
                "segment_ids": [int(number)],
                "hop_count": 1,
                "hop_contexts": [],
            }
            for number, text in segments
        ]
        # The same question twice: the embeddings are equal, and one of them goes.
        fenced = "```json\n" + json.dumps({"pairs": [*pairs, pairs[0]]}) + "\n```"
        return _completion(f"<think>{{hm}}</think>Here you are:\n{fenced}")
    return _completion(json.dumps({"key_concepts": [{"text": "a", "description": "b"}] * 3}))


def _embeddings(request: dict[str, Any]) -> dict[str, Any]:
    rows = []
    for index, text in enumerate(request["input"]):
        digest = hashlib.sha256(text.encode()).digest()[:16]
        rows.append({"index": index, "embedding": [byte - 127.5 for byte in digest]})
    return {"data": rows[::-1], "usage": {"prompt_tokens": 3, "total_tokens": 3}}
