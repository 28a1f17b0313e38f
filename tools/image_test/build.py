"""The image: a Debian base by debootstrap, wheels by this machine's pip, layers by buildah."""

import functools
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

from checks.here import need_tools, not_here

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / "build" / "image-test"

_SUITE = "bookworm"
_SUITES = (("Debian", ""), ("Debian", "-updates"), ("Debian-Security", "-security"))
_BASE = "localhost/open-rerank-base"
_NAME = "localhost/open-rerank-cpu"
_STAGE = "localhost/open-rerank-cpu-build"
# Debian's buildah only recommends the package with the machine's own policy. This policy permits
# anything, but nothing is pulled: the base is ours.
_POLICY = f"--signature-policy={Path(__file__).with_name('policy.json')}"
_TOOLS = {
    **{name: name for name in ("buildah", "debootstrap")},
    "apt-get": "apt",
    "ip": "iproute2",
    **dict.fromkeys(("nsenter", "setpriv", "unshare"), "util-linux"),
}


class Unbuildable(Exception):
    """The image cannot be built; the message says what is missing or which step failed."""


@dataclass(frozen=True)
class Image:
    """A built image: its configuration and history, and its root file system, mounted."""

    config: dict[str, Any]
    history: list[dict[str, Any]]
    rootfs: Path
    size_mb: int
    base_mb: int
    build_s: float


def check_host(artifact: Path | None) -> None:
    """Ends the check if this machine cannot build; raises Unbuildable for the artifact."""
    if os.geteuid() != 0:
        not_here("found an ordinary user, wanted root: debootstrap and chroot need it")
    need_tools(_TOOLS)
    if artifact is not None and not artifact.is_relative_to(ROOT):
        raise Unbuildable(f"{artifact} is outside the build context, {ROOT}: copy it there")
    if artifact is not None and not (artifact / "manifest.json").is_file():
        raise Unbuildable(f"no manifest.json in {artifact}: export an artifact first (make serve)")


@contextmanager
def build_image(artifact: Path | None) -> Iterator[Image]:
    """Builds Dockerfile.cpu with `artifact` baked in. Raises Unbuildable."""
    CACHE.mkdir(parents=True, exist_ok=True)
    _make_base()
    wheels = _download_wheels()
    began = time.monotonic()
    _print_progress("building Dockerfile.cpu")
    try:
        _build(wheels, artifact)
    finally:
        _buildah("rm", "--all")  # an interrupted build leaves its containers mounted
    build_s = time.monotonic() - began
    facts = json.loads(_buildah("inspect", "--type=image", _NAME))
    with _mounted(_BASE) as base:
        base_mb = _size_mb(base)
    with _mounted(_NAME) as rootfs:
        docker, size_mb = facts["Docker"], _size_mb(rootfs)
        yield Image(docker["config"], docker["history"], rootfs, size_mb, base_mb, build_s)


def _make_base() -> None:
    if _buildah("images", "--quiet", "--filter", f"reference={_BASE}").strip():
        return
    _print_progress(f"making the base image (Debian {_SUITE}, about two minutes)")
    with tempfile.TemporaryDirectory(dir=CACHE, prefix="base-") as directory:
        root = Path(directory)
        mirrors = _debian_mirrors()
        # In its own mount namespace, so that its mounts disappear with it, even when interrupted.
        _run(
            [
                *("unshare", "--mount", "debootstrap", "--variant=minbase"),
                *("--include=ca-certificates,python3,python3-venv", _SUITE, directory),
                *([mirrors["Debian"]] if "Debian" in mirrors else []),
            ]
        )
        if mirrors:
            sources = [
                f"deb {mirrors[label]} {_SUITE}{end} main\n"
                for label, end in _SUITES
                if label in mirrors
            ]
            (root / "etc/apt/sources.list").write_text("".join(sources))
        for cache in ("var/cache/apt", "var/lib/apt/lists"):
            shutil.rmtree(root / cache)
            (root / cache).mkdir()
        container = _buildah("from", "scratch").strip()
        try:
            _buildah("add", container, directory, "/")
            _buildah("commit", _POLICY, container, _BASE)
        finally:
            _buildah("rm", container)


def _debian_mirrors() -> dict[str, str]:
    """This machine's mirrors by their label: Debian, Debian-Security. Empty on other systems."""
    form = "$(ORIGIN)|$(LABEL)|$(REPO_URI)"
    targets = _run(["apt-get", "indextargets", "--format", form, "Created-By: Packages"])
    rows = [line.split("|") for line in targets.splitlines()]
    return {label: uri for origin, label, uri in rows if origin == "Debian"}


def _download_wheels() -> Path:
    """Downloads outside the build: no index address or certificate gets into the image."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    # The extras that the image installs, in its own words: `"/src[serve-cpu,...]"`.
    (extras,) = re.findall(r'"/src\[([\w,-]+)\]"', (ROOT / "Dockerfile.cpu").read_text())
    wanted = [
        *project["build-system"]["requires"],
        *project["project"]["dependencies"],
        *(
            pin
            for name in extras.split(",")
            for pin in project["project"]["optional-dependencies"][name]
        ),
    ]
    constraints = (ROOT / "constraints.txt").read_bytes()
    digest = hashlib.sha256(json.dumps(wanted).encode() + constraints).hexdigest()[:12]
    wheels = CACHE / f"wheels-{digest}"
    if not wheels.is_dir():
        _print_progress("downloading wheels")
        unfinished = wheels.with_suffix(".part")
        _run(
            [
                *(sys.executable, "-m", "pip", "download", "--quiet", "--dest", str(unfinished)),
                *("--python-version=3.11", "--only-binary=:all:"),
                *("--constraint", str(ROOT / "constraints.txt"), *wanted),
            ]
        )
        unfinished.rename(wheels)
    return wheels


def _build(wheels: Path, artifact: Path | None) -> None:
    with _served(wheels) as address, tempfile.NamedTemporaryFile("w", dir=CACHE) as settings:
        settings.write(f"[global]\nno-index = true\nfind-links = {address}\n")
        settings.flush()
        options = [
            # Docker's format: the OCI format has no health check.
            *("--layers", "--format=docker", "--isolation=chroot", "--pull-never"),
            f"--file={ROOT / 'Dockerfile.cpu'}",
            f"--build-arg=BASE_IMAGE={_BASE}",
            f"--secret=id=pip.conf,src={settings.name}",
        ]
        # Named, so that pruning keeps its layers for the next run.
        _buildah("build", _POLICY, *options, "--target=build", f"--tag={_STAGE}", str(ROOT))
        options.append(f"--build-arg=MODEL_DIR={artifact.relative_to(ROOT) if artifact else ''}")
        _buildah("build", _POLICY, *options, f"--tag={_NAME}", str(ROOT))
    _buildah("rmi", "--prune")


@contextmanager
def _served(directory: Path) -> Iterator[str]:
    """Serves the directory over HTTP on loopback: a mount would leave its mount point behind."""

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Log nothing: there are many wheels."""

    handler = functools.partial(Handler, directory=str(directory))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@contextmanager
def _mounted(image: str) -> Iterator[Path]:
    container = _buildah("from", "--pull-never", image).strip()
    try:
        yield Path(_buildah("mount", container).strip())
    finally:
        _buildah("rm", container)


def _size_mb(root: Path) -> int:
    return int(_run(["du", "--summarize", "--block-size=1000000", str(root)]).split()[0])


def _buildah(*args: str) -> str:
    return _run([*_buildah_in(_storage_driver()), *args])


@functools.cache
def _storage_driver() -> str:
    """Overlay if the kernel allows it; else vfs, which copies everything but always works."""
    probe = [*_buildah_in("overlay"), "info"]
    works = subprocess.run(probe, capture_output=True, check=False).returncode == 0
    return "overlay" if works else "vfs"


def _buildah_in(driver: str) -> list[str]:
    store = CACHE / driver
    return ["buildah", f"--storage-driver={driver}", f"--root={store}", f"--runroot={store}-run"]


def _run(command: list[str]) -> str:
    # Its own process group: an interrupted build ends with all its processes.
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, start_new_session=True)
    try:
        output, errors = process.communicate()
    except BaseException:
        os.killpg(process.pid, signal.SIGTERM)
        process.communicate()
        raise
    if process.returncode:
        tail = "\n".join((output + errors).splitlines()[-40:])
        raise Unbuildable(f"{command[0]} exited with {process.returncode}:\n{tail}")
    return output


def _print_progress(text: str) -> None:
    sys.stdout.write(f"{text} …\n")
    sys.stdout.flush()
