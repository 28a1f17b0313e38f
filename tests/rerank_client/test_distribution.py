"""The published distribution: this one package, httpcore with anyio, httpx and msgspec."""

import ast
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOM = ROOT / "rerank_client"
ROOMS = {path.name for path in ROOT.iterdir() if path.is_dir()}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("client-wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOM,
        check=True,
        capture_output=True,
    )
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_holds_this_package_and_nothing_else(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    sources = {f"rerank_client/{path.name}" for path in ROOM.glob("*.py")}
    assert names == sources | {"rerank_client/py.typed"}


def test_it_depends_on_four_libraries_alone(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (name,) = [name for name in archive.namelist() if name.endswith("METADATA")]
    metadata = Parser().parsestr(archive.read(name).decode())
    wanted = metadata.get_all("Requires-Dist") or []
    assert {line.split("<")[0].split(">")[0] for line in wanted} == {
        *("anyio", "httpcore[asyncio]", "httpx", "msgspec")
    }
    assert metadata["Requires-Python"] == ">=3.10"


def test_it_carries_the_repositorys_licence(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (name,) = [name for name in archive.namelist() if name.endswith("/LICENSE")]
    assert archive.read(name) == (ROOT / "LICENSE").read_bytes()


def test_it_names_no_other_library() -> None:
    allowed = {"anyio", "httpcore", "httpx", "msgspec", "rerank_client"} | sys.stdlib_module_names
    for path in ROOM.glob("*.py"):
        tree = ast.parse(path.read_text("utf-8"), feature_version=(3, 10))
        names = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
        names |= {n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
        assert {name.split(".")[0] for name in names} <= allowed, path.name


def test_the_wheel_works_where_the_repository_is_not(wheel: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import rerank_client, threading;"
        "client = rerank_client.RerankClient('http://127.0.0.1:9'); client.close();"
        "print(rerank_client.__file__); print(threading.active_count());"
        "print(*{name.split('.')[0] for name in sys.modules})"
    )
    # -P: not from the working directory; the wheel's path precedes the editable checkout.
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, str(wheel)],
        cwd=wheel.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    place, threads, modules = done.stdout.splitlines()
    assert place == str(wheel / "rerank_client" / "__init__.py")
    assert threads == "1"
    ours = ROOMS - {"rerank_client"}
    assert not set(modules.split()) & (ours | {"litestar", "numpy", "tokenizers", "torch"})


def test_importing_reads_no_environment_and_opens_nothing() -> None:
    code = (
        "import os, socket\n"
        "import httpcore, httpx, msgspec\n"
        "os.environ['RERANK_URL'] = 'not a url'\n"
        "socket.socket = None\n"
        "import rerank_client\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
