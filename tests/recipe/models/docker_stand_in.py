"""A `docker` for machines without one: one container, which is rerank-serve of this environment.

Understands the commands of recipe/launchers.py, and keeps its state beside itself.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

HOME = Path(__file__).resolve().parent
STATE, LOG = HOME / "container", HOME / "container.log"


def main(command: str, *arguments: str) -> int:
    if command == "run":
        return run(list(arguments))
    if command == "ps":
        return ps(list(arguments))
    if command == "logs":
        sys.stdout.write(LOG.read_text())
    elif command in ("rm", "stop"):
        end()
        if command == "rm":
            STATE.unlink(missing_ok=True)
    return 0


def run(words: list[str]) -> int:
    given = dict(word.split("=", 1) for word in words if "=" in word)
    value = {name: words[words.index(name) + 1] for name in ("--name", "--volume", "--publish")}
    address, port, _ = value["--publish"].split(":")
    directory, inside, _ = value["--volume"].split(":")
    if given["NIM_CUSTOM_MODEL"] != inside:
        return 1
    variables = {
        "NIM_CUSTOM_MODEL": directory,
        "NIM_BIND_ADDR": f"{address}:{port}",
        "NIM_TRITON_MAX_SEQ_LENGTH": given["NIM_TRITON_MAX_SEQ_LENGTH"],
        "NIM_TRITON_GRPC_PORT": "0",
        "NIM_TRITON_METRICS_PORT": "0",
    }
    with LOG.open("wb") as log:
        serving = subprocess.Popen(
            [str(Path(sys.executable).with_name("rerank-serve"))],
            env={**os.environ, **variables},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    labels = {name: given[name] for name in given if name.startswith("open-rerank.")}
    state = {"name": value["--name"], "pid": serving.pid, "labels": labels}
    STATE.write_text(json.dumps(state))
    sys.stdout.write("0123456789ab\n")
    return 0


def ps(words: list[str]) -> int:
    if not STATE.exists():
        return 0
    state = json.loads(STATE.read_text())
    if "--all" in words:
        output_format = words[words.index("--format") + 1].replace("{{.Names}}", state["name"])
        sys.stdout.write(
            re.sub(r'{{\.Label "([^"]+)"}}', lambda m: state["labels"].get(m[1], ""), output_format)
            + "\n"
        )
    elif alive(state["pid"]):
        sys.stdout.write("0123456789ab\n")
    return 0


def end() -> None:
    if STATE.exists() and alive(number := json.loads(STATE.read_text())["pid"]):
        os.kill(number, signal.SIGTERM)
        while alive(number):
            time.sleep(0.05)


def alive(number: int) -> bool:
    try:
        state = Path(f"/proc/{number}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"  # a zombie has ended


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
