"""The direction of the arrows between rooms (ARCHITECTURE.md), read from the imports."""

import ast
import functools
import graphlib
import itertools
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ALLOWED = {
    "profiles": set(),
    "runtime": {"profiles"},
    "server": {"runtime"},
    "exporter": {"runtime"},
    "recipe": {"exporter", "rerank_client", "runtime"},
    # A distribution of its own, for other people's environments.
    "rerank_client": set(),
    # Never shipped; only `tools` may look at the server, to write what docs/ says of it.
    "embedded": {"recipe", "runtime"},
    # check-zoo exports the checkpoints that the tests read.
    "checks": {"exporter", "recipe", "runtime", "tests"},
    "benchmarks": {"checks", "exporter", "recipe", "runtime"},
    # As a package that is installed into a client's environment, like the others.
    "clients": {"checks", "rerank_client", "runtime"},
    "examples": {"rerank_client"},
    "tools": {"checks", "server", "runtime"},
}
ROOMS = {*ALLOWED, "tests"}
# The floors inside a room, lowest first, by modules and folders. A module may import its own floor
# and those below. What no floor names is a foundation, below them all.
FLOORS = {
    "runtime": (
        ["scheduling"],
        ["model", "vision.tower"],
        ["ranker", "embedder", "tuning"],
        ["opening"],
    ),
    "server": (
        ["service", "loading", "reloading", "shutdown"],
        ["call", "exchange"],
        ["surfaces", "kserve", "health", "metadata", "pages"],
        ["app", "command", "cli"],
    ),
}
# A longer file holds two things.
MOST_LINES = 480
HEAVY = {
    "huggingface_hub",
    "onnx",
    "onnxscript",
    "peft",
    "safetensors",
    "sentence_transformers",
    "torch",
    "transformers",
}


@functools.cache
def imports(room: str) -> dict[Path, set[str]]:
    """File → the packages that it imports."""
    found = {}
    for path in (ROOT / room).rglob("*.py"):
        names = set()
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.split(".")[0])
        found[path.relative_to(ROOT)] = names
    return found


@pytest.mark.parametrize("room", sorted(ALLOWED))
def test_a_room_imports_only_what_its_arrows_allow(room: str) -> None:
    wrong = {
        str(path): sorted(forbidden)
        for path, names in imports(room).items()
        if (forbidden := (names & ROOMS) - {room} - ALLOWED[room])
    }
    assert not wrong


def modules(room: str) -> dict[str, set[str]]:
    """Module of the room → the modules of the room that it imports."""
    paths = {str(path.relative_to(ROOT)): path for path in (ROOT / room).rglob("*.py")}
    names = {name.removesuffix(".py").replace("/", "."): path for name, path in paths.items()}
    found = {}
    for name, path in names.items():
        imported = set()
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                imported |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        found[name] = imported & names.keys()
    return found


def floor(module: str) -> int:
    room, _, name = module.partition(".")
    floors = enumerate(FLOORS[room], start=1)
    of = {part: number for number, parts in floors for part in parts}
    steps = name.split(".")
    return max(of.get(".".join(steps[:end]), 0) for end in range(1, len(steps) + 1))


@pytest.mark.parametrize("room", sorted(FLOORS))
def test_no_import_goes_upwards_or_round(room: str) -> None:
    graph = modules(room)
    upwards = {
        f"{module} imports {other}"
        for module, others in graph.items()
        for other in others
        if floor(other) > floor(module)
    }
    assert not upwards
    graphlib.TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("room", sorted(FLOORS))
def test_the_floors_name_what_there_is(room: str) -> None:
    found = {name.partition(".")[2] for name in modules(room)}
    for part in itertools.chain(*FLOORS[room]):
        assert any(name == part or name.startswith(f"{part}.") for name in found), part


@pytest.mark.parametrize("room", ["runtime", "server"])
def test_a_serving_room_never_names_a_training_library(room: str) -> None:
    wrong = {str(p): sorted(names & HEAVY) for p, names in imports(room).items() if names & HEAVY}
    assert not wrong


def test_importing_the_server_brings_in_no_heavy_library() -> None:
    code = "import sys, server.app, server.cli; print(' '.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert not HEAVY & set(done.stdout.split())


def test_no_file_is_long() -> None:
    paths = [path for room in ROOMS for path in (ROOT / room).rglob("*.py")]
    lines = {str(path): path.read_text("utf-8").count("\n") for path in paths}
    assert {path: count for path, count in lines.items() if count > MOST_LINES} == {}


def test_no_drawer_modules() -> None:
    drawers = {"utils.py", "common.py", "helpers.py"}
    assert not [p for room in ROOMS for p in (ROOT / room).rglob("*.py") if p.name in drawers]
