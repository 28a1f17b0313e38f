"""`make check-triton`: a real tritonserver runs the artifact, and our server runs through it.

The binary comes from nvidia-pytriton, in a separate environment; it has only the Python backend and
listens on loopback.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx
import numpy as np
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from checks.ports import free_ports
from checks.serving import served
from exporter.triton.repository import MAX_BATCH_SIZE, write_repository
from runtime.engines import open_engine
from runtime.engines.triton import MODEL_NAME, TritonEngine
from runtime.errors import EngineError
from runtime.opening import mock_model, open_ranker
from runtime.requests import RankRequest
from tests.waiting import PATIENCE_S, wait_until

ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / ".venvs" / "tritonserver"
# The same graph and the same library: only numpy differs.
SAME = 1e-5
QUERY = "which way should i go?"
PASSAGES = [
    "two roads diverged in a yellow wood",
    "then took the other, as just as fair",
    "Ein Satz mit Umlauten: größer, schöner",
    "machine learning is a subset of artificial intelligence " * 8,
    "the weather is nice today",
] * 15
_MANY = {"RERANK_MAX_PASSAGES": "512"}
BODY = {"query": {"text": QUERY}, "passages": [{"text": text} for text in PASSAGES]}


@dataclass(frozen=True)
class Triton:
    """A running tritonserver: its ports and its log."""

    http: int
    grpc: int
    metrics: int
    log: Path
    process: "subprocess.Popen[bytes]"

    @property
    def endpoints(self) -> dict[str, str]:
        """The variables that lead our server to it, one for each protocol."""
        return {
            "TRITON_HTTP_ENDPOINT": f"http://127.0.0.1:{self.http}",
            "TRITON_GRPC_ENDPOINT": f"127.0.0.1:{self.grpc}",
        }


def main() -> int:
    """0 when every step below passed; the first failure raises."""
    artifact = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder) / "model_repository"
        write_repository(artifact, repository)
        ranker = open_ranker(artifact)
        direct = ranker.rank(RankRequest(QUERY, PASSAGES)).logits
        ranker.close()
        flags = {"NIM_TRITON_RATE_LIMIT": "execution_count", "NIM_TRITON_LOG_VERBOSE": "1"}
        with triton(repository, Path(folder) / "triton.log", flags) as running:
            _texts(running, direct)
            _rows(running, artifact, direct)
            _rows_without_tokens(running)
            _flags(running)
            _behind_our_server(running, artifact, direct)
            _gone_and_back(running, repository, artifact, direct)
        mock = mock_model("rank")
        made_up = mock.rank(RankRequest(QUERY, PASSAGES)).logits  # type: ignore[attr-defined]
        mock.close()
        flags = {"ENABLE_MOCK_INFERENCE": "1"}
        with triton(repository, Path(folder) / "mock.log", flags) as running:
            _texts(running, made_up)
            _mock_behind_our_server(running, made_up)
    print("real tritonserver: all steps held")
    return 0


@contextmanager
def triton(
    repository: Path,
    log: Path,
    flags: Mapping[str, str] = MappingProxyType({}),
    ports: list[int] | None = None,
) -> Iterator[Triton]:
    """Triton on `repository`, started by its start.sh, once the model is ready."""
    http, grpc, metrics = ports = ports or free_ports(3)
    names = (f"TRITON_{kind}_PORT" for kind in ("HTTP", "GRPC", "METRICS"))
    environment = {**_environment(log.parent), **flags}
    environment |= dict(zip(names, map(str, ports), strict=True))
    command = [str(repository / "start.sh"), f"--backend-directory={log.parent / 'backends'}"]
    with log.open("wb") as out:
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=out)
    running = Triton(http, grpc, metrics, log, process)
    try:
        _wait(running)
        yield running
    finally:
        process.terminate()
        process.wait()


def _environment(folder: Path) -> dict[str, str]:
    """Variables that let the wheel's binary run outside pytriton: its libraries, a stub of this
    Python, and an interpreter that finds our runtime."""
    packages = next((HOME / "lib").glob("python3.*")) / "site-packages"
    carried = packages / "pytriton" / "tritonserver"
    backend = folder / "backends" / "python"
    if not backend.exists():
        shutil.copytree(carried / "backends" / "python", backend)
        version = packages.parent.name.removeprefix("python")
        stub = carried / "python_backend_stubs" / version / "triton_python_backend_stub"
        shutil.copy2(stub, backend)
    libraries = [packages / "nvidia_pytriton.libs", sysconfig.get_config_var("LIBDIR")]
    return {
        "PATH": f"{HOME / 'bin'}:{os.environ['PATH']}",
        "VIRTUAL_ENV": str(HOME),
        "LD_LIBRARY_PATH": ":".join(map(str, libraries)),
        "PYTHONPATH": f"{ROOT}:{packages}",
        "TRITONSERVER": str(carried / "bin" / "tritonserver"),
    }


def _texts(running: Triton, wanted: np.ndarray) -> None:
    """Texts by NIM's tensor names, over both protocols."""
    for library, port in ((tritonclient.http, running.http), (tritonclient.grpc, running.grpc)):
        with closing(library.InferenceServerClient(f"127.0.0.1:{port}")) as client:
            parts = np.split(np.asarray(PASSAGES, object), 5)
            found = np.concatenate([_ask(library, client, part) for part in parts])
            _same(f"texts over {library.__name__}", found, wanted)
            reply = _ask(library, client, np.asarray([" "], object))
            assert "blank" in str(reply), reply


def _ask(library: Any, client: Any, passages: np.ndarray) -> Any:
    """The logits of the passages, or Triton's error."""
    texts = {"query": np.full(len(passages), QUERY, object), "passage": passages}
    sent = {name: np.asarray([t.encode() for t in all_], object) for name, all_ in texts.items()}
    reply = _infer(
        library,
        client,
        {name: array[:, None] for name, array in sent.items()},
        ("index", "logit", "token_count"),
        parameters={"truncate": "END"},
    )
    if isinstance(reply, Exception):
        return reply
    assert (reply.as_numpy("index") == np.arange(len(passages))[:, None]).all()
    assert (reply.as_numpy("token_count") > 0).all()
    return np.asarray(reply.as_numpy("logit").reshape(-1))


def _infer(
    library: Any,
    client: Any,
    tensors: Mapping[str, np.ndarray],
    outputs: Sequence[str],
    **options: Any,
) -> Any:
    """The reply, or Triton's error."""
    sent = []
    for name, values in tensors.items():
        kind = np_to_triton_dtype(values.dtype)
        sent.append(library.InferInput(name, list(values.shape), kind))
        sent[-1].set_data_from_numpy(values)
    wanted = [library.InferRequestedOutput(name) for name in outputs]
    try:
        return client.infer(MODEL_NAME, sent, outputs=wanted, **options)
    except InferenceServerException as error:
        return error


def _rows(running: Triton, artifact: Path, wanted: np.ndarray) -> None:
    """Token rows through our engine, limited by the configuration."""
    for address in (f"http://127.0.0.1:{running.http}", f"grpc://127.0.0.1:{running.grpc}"):
        engine = open_engine(f"triton={address}", artifact)
        assert isinstance(engine, TritonEngine)
        assert engine.max_rows == MAX_BATCH_SIZE, engine.max_rows
        engine.close()
        ranker = open_ranker(artifact, engine=f"triton={address}")
        ranker.warm_up()  # goldens through Triton
        assert ranker.info.max_rows == MAX_BATCH_SIZE
        assert ranker.info.target == "triton"
        _same(f"rows over {address}", ranker.rank(RankRequest(QUERY, PASSAGES)).logits, wanted)
        ranker.close()


def _rows_without_tokens(running: Triton) -> None:
    """A row whose mask is all 0 is refused; concurrent rows are not."""
    whole = np.ones((2, 4), dtype=np.int64)
    holed = np.asarray([[1, 1, 1, 1], [0, 0, 0, 0]], dtype=np.int64)
    alone = _masked(running, whole)
    with ThreadPoolExecutor(8) as pool:
        masks = [whole, holed] * 8
        answers = list(pool.map(lambda mask: _masked(running, mask), masks))
    for mask, answer in zip(masks, answers, strict=True):
        if mask is holed:
            assert isinstance(answer, str), answer
            assert "row 1 has no token" in answer, answer
        else:
            np.testing.assert_allclose(answer, alone, atol=SAME)
    refused = _masked(running, np.ones((2, 5), dtype=np.int64))
    assert isinstance(refused, str), refused
    assert "shape" in refused, refused


def _masked(running: Triton, mask: np.ndarray) -> Any:
    """The scores of two rows of four tokens under `mask`, or Triton's error message."""
    ids = np.asarray([[5, 6, 7, 8], [9, 10, 11, 12]], dtype=np.int64)
    with tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{running.grpc}") as client:
        output = client.get_model_config(MODEL_NAME).config.output[-1].name
        tensors = {"input_ids": ids, "attention_mask": mask}
        found = _infer(tritonclient.grpc, client, tensors, [output])
    return str(found) if isinstance(found, Exception) else found.as_numpy(output).reshape(-1)


def _flags(running: Triton) -> None:
    log = running.log.read_text(errors="replace")
    assert re.search(r"rate_limit\s+\|\s+EXEC_COUNT", log), "the rate limit was not applied"
    assert re.search(r"^I\d+", log, re.M), "the verbosity was not applied"
    text = httpx.get(f"http://127.0.0.1:{running.metrics}/metrics", timeout=PATIENCE_S).text
    counted = re.search(rf'nv_inference_count{{model="{MODEL_NAME}",version="1"}} (\d+)', text)
    assert counted, text
    assert int(counted[1]) >= len(PASSAGES)
    print("flags and metrics: ok")


def _behind_our_server(running: Triton, artifact: Path, wanted: np.ndarray) -> None:
    for name, address in running.endpoints.items():
        settings = {name: address, "NIM_MODEL_PROFILE": "triton", **_MANY}
        with served(settings, rank=artifact) as url:
            for _ in range(3):  # any worker, any connection
                _same(name, _ranked(url), wanted)


def _gone_and_back(running: Triton, repository: Path, artifact: Path, wanted: np.ndarray) -> None:
    """Our servers answer 503 while Triton is unreachable, and rankings again afterwards."""
    ports = [running.http, running.grpc, running.metrics]
    with ExitStack() as stack:
        urls = [
            stack.enter_context(served({name: address, **_MANY}, rank=artifact))
            for name, address in running.endpoints.items()
        ]
        running.process.terminate()
        running.process.wait()
        for url in urls:
            assert _asked(url).status_code == 503
        try:
            open_engine(f"triton=http://127.0.0.1:{running.http}", artifact)
        except EngineError as error:
            print(f"no Triton: {error}")
        else:
            raise AssertionError("found an engine where no Triton is")
        with triton(repository, running.log.with_name("again.log"), ports=ports):
            for url in urls:
                # gRPC waits a while before it reconnects.
                wait_until(partial(_answers, url), lambda: "the engine did not come back")
                _same("after Triton came back", _ranked(url), wanted)


def _mock_behind_our_server(running: Triton, wanted: np.ndarray) -> None:
    name = "TRITON_HTTP_ENDPOINT"
    with served({name: running.endpoints[name], **_MANY}) as url:
        _same("mock behind our server", _ranked(url), wanted)


def _asked(url: str) -> httpx.Response:
    return httpx.post(f"{url}/v1/ranking", json=BODY, timeout=PATIENCE_S)


def _answers(url: str) -> bool:
    return _asked(url).status_code == 200


def _ranked(url: str) -> np.ndarray:
    reply = _asked(url)
    assert reply.status_code == 200, reply.text
    rows = sorted(reply.json()["rankings"], key=lambda row: row["index"])
    return np.asarray([row["logit"] for row in rows], np.float32)


def _same(what: str, found: np.ndarray, wanted: np.ndarray) -> None:
    far = float(np.abs(found - wanted).max())
    assert far <= SAME, f"{what}: {far} apart"
    print(f"{what}: {len(found)} scores, at most {far:.1e} from those in process")


def _wait(running: Triton) -> None:
    url = f"http://127.0.0.1:{running.http}/v2/models/{MODEL_NAME}/ready"

    def told() -> str:
        return f"tritonserver did not get ready:\n{running.log.read_text()[-4000:]}"

    def ready() -> bool:
        assert running.process.poll() is None, told()
        with suppress(httpx.TransportError):
            return httpx.get(url, timeout=PATIENCE_S).status_code == 200
        return False

    wait_until(ready, told)


if __name__ == "__main__":
    sys.exit(main())
