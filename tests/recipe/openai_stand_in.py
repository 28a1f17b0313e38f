"""An OpenAI-compatible endpoint in a process of its own, which fails in the ways of real ones.

    python openai_stand_in.py PORT_FILE KEY [--always STATUS] [--slow SECONDS]

Each request fails in the ways of FAULTS that its own hash chooses, one after the other, before it
is answered well. GET /counts tells how often every request was answered well, and what failed.
"""

import hashlib
import json
import re
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

FAULTS = ("429", "429-date", "500", "cut", "length", "malformed", "no-json", "short")
_LOCK = threading.Lock()
_ASKED: dict[str, int] = {}
_GOOD: dict[str, int] = {}
_FAILED: dict[str, int] = {}
_AT_ONCE = [0, 0]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    key = ""
    always = 0
    slow_s = 0.0

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        with _LOCK:
            counts = {"good": _GOOD, "failed": _FAILED, "most_at_once": _AT_ONCE[1]}
            self._send(200, json.dumps(counts).encode())

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("authorization") != f"Bearer {self.key}":
            self._send(
                401, b'{"error": "wrong key: ' + self.headers["authorization"].encode() + b'"}'
            )
            return
        if self.always:
            self._send(self.always, b"{}")
            return
        with _LOCK:
            _AT_ONCE[0] += 1
            _AT_ONCE[1] = max(_AT_ONCE)
        time.sleep(self.slow_s)
        try:
            self._answer(hashlib.sha256(body).hexdigest(), json.loads(body))
        finally:
            with _LOCK:
                _AT_ONCE[0] -= 1

    def _answer(self, name: str, request: dict) -> None:
        first = int(name[:8], 16)
        faults = [FAULTS[(first + i) % len(FAULTS)] for i in range(first % 4)]
        with _LOCK:
            turn = _ASKED[name] = _ASKED.get(name, 0) + 1
        chat = "messages" in request
        good = json.dumps(_chat(request) if chat else _embeddings(request)).encode()
        fault = faults[turn - 1] if turn <= len(faults) else ""
        with _LOCK:
            counts = _FAILED if fault else _GOOD
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


def _completion(text: str) -> dict:
    message = {"role": "assistant", "content": text}
    return {
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 5},
    }


def _chat(request: dict) -> dict:
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


def _embeddings(request: dict) -> dict:
    rows = []
    for index, text in enumerate(request["input"]):
        digest = hashlib.sha256(text.encode()).digest()[:16]
        rows.append({"index": index, "embedding": [byte - 127.5 for byte in digest]})
    return {"data": rows[::-1], "usage": {"prompt_tokens": 3, "total_tokens": 3}}


def main() -> None:
    """Serve until the process is ended; the port is in PORT_FILE once it is."""
    port_file, _Handler.key, *rest = sys.argv[1:]
    options = dict(zip(rest[::2], rest[1::2], strict=True))
    _Handler.always = int(options.get("--always", 0))
    _Handler.slow_s = float(options.get("--slow", 0))
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    partial = Path(f"{port_file}.partial")
    partial.write_text(str(server.server_port))
    partial.replace(port_file)
    server.serve_forever()


if __name__ == "__main__":
    main()
