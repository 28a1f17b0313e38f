"""`make check-tensorrt`: every name and call of TensorRT's API that we use, against real bindings.

The bindings are in the package registry, their libraries are not. Empty libraries with the few
functions that the bindings import let them load: classes, enumerations and signatures are then
real, and our subclasses derive from them. Nothing is computed.
"""

import ast
import importlib
import inspect
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from checks.here import need_tools

VERSIONS = ("10", "11")
SOURCES = (
    Path("exporter/tensorrt_attention.py"),
    Path("exporter/tensorrt_plan.py"),
    Path("runtime/engines/tensorrt.py"),
)
LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser")
# Symbols that the bindings import from the libraries.
FUNCTIONS = (
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "getBuilderPluginRegistry",
    "getNvOnnxParserVersion",
    "getPluginRegistry",
    "initLibNvInferPlugins",
)
# The API class of the objects that our sources give these names.
CLASSES = {
    "_plan": "ICudaEngine",
    "builder": "Builder",
    "attention": "IAttention",
    "config": "IBuilderConfig",
    "context": "IExecutionContext",
    "e": "ParserError",
    "inspector": "EngineInspector",
    "layer": "IAttentionInputLayer",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "plan": "ICudaEngine",
    "profile": "IOptimizationProfile",
    "runtime": "Runtime",
    "tensor": "ITensor",
}
# `plan` of the builder is a path.
OTHERS = {"exporter/tensorrt_plan.py": {"plan"}}
WORK = Path("build/check-tensorrt")


@dataclass(frozen=True)
class Use:
    """An attribute of an object of the API; `call` are its arguments where it is called."""

    where: str
    owner: str
    name: str
    call: ast.Call | None


def uses(source: str, text: str) -> Iterator[Use]:
    """Names that the module `source` uses: of the bindings (owner "") and of their objects."""
    tree = ast.parse(text)
    calls = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute):
            continue
        where, call = f"{source}:{node.lineno}", calls.get(id(node))
        chain = _chain(node)
        if len(chain) > 1 and chain[0] in ("trt", "_trt"):
            yield Use(where, "", ".".join(chain[1:]), call)
        elif len(chain) > 1 and chain[-2] in CLASSES.keys() - OTHERS.get(source, set()):
            yield Use(where, CLASSES[chain[-2]], chain[-1], call)


def _chain(node: ast.expr) -> list[str]:
    """["trt", "BuilderFlag", "TF32"] for trt.BuilderFlag.TF32; a leading self is left out."""
    match node:
        case ast.Attribute(value=ast.Name(id="self")):
            return [node.attr]
        case ast.Attribute(value=value) if before := _chain(value):
            return [*before, node.attr]
        case ast.Name(id=name) if name != "self":
            return [name]
    return []


def complaint(use: Use, bindings: Any) -> str | None:
    """What is wrong with `use`, or None."""
    found: Any = bindings
    for name in ([use.owner] if use.owner else []) + use.name.split("."):
        if not hasattr(found, name):
            return f"{use.where}: {use.owner or 'tensorrt'} has no {use.name}"
        found = getattr(found, name)
    if use.call is None or not callable(found):
        return None
    ways = signatures(found.__init__ if isinstance(found, type) else found)  # type: ignore[misc]
    if use.name.endswith("__init__"):  # called on the class: self is an argument
        ways = [[("self", True), *way] for way in ways]
    given, named = len(use.call.args), {k.arg for k in use.call.keywords}
    starred = any(isinstance(argument, ast.Starred) for argument in use.call.args)
    if any(_fits(way, given, named, starred) for way in ways):
        return None
    return f"{use.where}: {use.name} takes {ways}, called with {given} arguments and {named or ''}"


def signatures(function: Any) -> list[list[tuple[str, bool]]]:
    """(name, required) of each parameter after self, for each overload, from pybind11's docstring;
    for a Python function, from its signature."""
    if isinstance(function, FunctionType):
        parameters = inspect.signature(function).parameters.values()
        return [[(p.name, p.default is p.empty) for p in parameters]]
    lines = re.findall(r"\((self[^)]*(?:\([^)]*\)[^)]*)*)\) ->", function.__doc__ or "")
    return [
        [(name, "=" not in rest) for name, rest in re.findall(r"(\w+): ([^,]+)", line)][1:]
        for line in lines
    ]


def _fits(way: list[tuple[str, bool]], given: int, named: set[str | None], starred: bool) -> bool:
    names = [name for name, _ in way]
    if starred:
        return named <= set(names)
    wanted = [name for name, must in way[given:] if must]
    return given <= len(way) and named <= set(names[given:]) and set(wanted) <= named


def subclasses(bindings: ModuleType) -> None:
    """Make the loggers and the monitor from the real classes, and use them as TensorRT would."""
    plan = importlib.import_module("exporter.tensorrt_plan")
    engine = importlib.import_module("runtime.engines.tensorrt")
    heard: list[str] = []
    monitor = plan._monitor(bindings, heard.append)
    monitor.phase_start("Building", None, 3)
    assert monitor.step_complete("Building", 0) is True
    monitor.phase_finish("Building")
    assert heard == ["Building: 3 steps", "Building: step 1 of 3"], heard
    build_log, engine_log = plan._logger(bindings), engine._logger(bindings)
    for log in (build_log, engine_log):
        log.log(bindings.ILogger.Severity.ERROR, "complaint")
    assert build_log.take_errors() == "complaint"
    assert engine_log.take_errors("nothing") == "complaint"


def libraries(directory: Path, version: str) -> None:
    """Empty libraries of TensorRT `version`, for the loader only."""
    directory.mkdir(parents=True, exist_ok=True)
    code = directory / "empty.c"
    code.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in FUNCTIONS))
    for name in LIBRARIES:
        target = directory / f"lib{name}.so.{version}"
        subprocess.run(["cc", "-shared", "-fPIC", "-o", target, code], check=True)


def compare() -> int:
    """In the child process: 1 when a name is missing or differs."""
    logging.disable()
    bindings = importlib.import_module("tensorrt_bindings")
    sys.modules["tensorrt"] = bindings
    found = [use for path in SOURCES for use in uses(str(path), path.read_text())]
    wrong = [text for use in found if (text := complaint(use, bindings))]
    subclasses(bindings)
    calls = sum(use.call is not None for use in found)
    print(f"TensorRT {bindings.__version__}: {len(found)} names, {calls} calls, {len(wrong)} wrong")
    print("".join(f"  {text}\n" for text in wrong), end="")
    return 1 if wrong or not found else 0


def main() -> int:
    """Compare with each version in a process of its own."""
    need_tools({"cc": "gcc"})
    failures = 0
    for version in VERSIONS:
        place = (WORK / version).resolve()
        libraries(place, version)
        (packages,) = Path(f".venvs/tensorrt-{version}/lib").glob("python*/site-packages")
        paths = [str(Path.cwd()), str(packages.resolve())]
        environment = os.environ | {
            "LD_LIBRARY_PATH": str(place),
            "PYTHONPATH": os.pathsep.join(paths),
        }
        command = [sys.executable, "-m", "checks.tensorrt_names", "compare"]
        failures += subprocess.run(command, env=environment, check=False).returncode != 0
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(compare() if sys.argv[1:] == ["compare"] else main())
