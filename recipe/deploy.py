"""Stage 5, deploy: run the artifact as an endpoint, test it and measure its drift.

The endpoint runs in Docker (NVIDIA's NIM image or one of ours, with the artifact mounted read-only
as NIM_CUSTOM_MODEL) or as rerank-serve on this machine. The stage reports success only after the
endpoint is ready, has answered a ranking and was measured over eval's candidates.
"""

import json
import os
import signal
from pathlib import Path

from recipe.config import DeployConfig
from recipe.durable import write_json
from recipe.errors import BadConfig, BadInput, OutputRefused
from recipe.evaluation.results import read_results
from recipe.evaluation.scorers import EndpointScorer
from recipe.evaluation.session import add_checked_column, read_setting
from recipe.launchers import (
    ENDPOINT_FILE,
    PROCESS_FILE,
    DockerLauncher,
    Launcher,
    ProcessLauncher,
    detached_endpoint,
    is_ready,
)
from recipe.progress import Log
from recipe.stage import DONE_FILE, STARTED_FILE, Input, Stage
from rerank_client import RerankClient, RerankError, nim
from runtime.manifest import MANIFEST_FILE, MODEL_FILE, read_manifest

_LOG_FILE = "server.log"
_SMOKE_QUERY = "what is AI?"
_SMOKE_PASSAGES = ("AI is artificial intelligence", "The weather is nice today")
_SMOKE_TIMEOUT_S = 60.0
_BATCH = 32


def _model_dir(settings: DeployConfig) -> Path | None:
    """The artifact to serve; None: the model of the image."""
    if settings.model_dir is None:
        return None
    given = Path(settings.model_dir)
    beside = not settings.use_onnx and given.name == "onnx"
    return given.with_name("tensorrt") if beside else given


def _inputs(settings: DeployConfig) -> list[Input]:
    directory = _model_dir(settings)
    inputs = [] if directory is None else [Input(directory, "exported artifact", "export")]
    if settings.eval_dir is not None:
        inputs.append(Input(Path(settings.eval_dir) / "setting.json", "evaluation", "eval"))
    return inputs


def _check(settings: DeployConfig) -> None:
    if (directory := _model_dir(settings)) is not None:
        _check_artifact(settings, directory)


def _check_machine(settings: DeployConfig) -> None:
    _refuse_foreign_files(settings.home)
    _refuse_second(settings)
    _launcher(settings).check()
    asks_key = settings.launcher == "docker" and settings.nim_image.startswith("nvcr.io/")
    if asks_key and not os.environ.get(settings.ngc_api_key_env):
        raise BadConfig(
            f"{settings.ngc_api_key_env} is not set, which NVIDIA's images need; export it, or "
            "set nim_image to one of ours or launcher=process"
        )
    # Check address and key now, before the server starts.
    _scorer(settings, _launcher(settings).url).close()


def _check_values(settings: DeployConfig) -> None:
    if settings.model_dir is None and settings.launcher == "process":
        raise BadConfig(
            "found model_dir = null, which serves the model of a container's image, and launcher = "
            "process, which has none; name an artifact, or set launcher=docker"
        )


def _check_artifact(settings: DeployConfig, directory: Path) -> None:
    wanted = MODEL_FILE if settings.use_onnx else "model.plan"
    if not (directory / wanted).is_file():
        raise BadInput(
            f"found no {wanted} in {directory}, which use_onnx = {str(settings.use_onnx).lower()} "
            "needs; run the stage export first, or set model_dir and use_onnx together"
        )
    _refuse_other_artifact(settings, directory)


def _refuse_other_artifact(settings: DeployConfig, directory: Path) -> None:
    """Refuse an artifact other than the one that the stage export measured."""
    if settings.eval_dir is None or not (directory / MANIFEST_FILE).is_file():
        return
    column = "onnx" if settings.use_onnx else "tensorrt"
    measured = read_results(Path(settings.eval_dir)).get(column)
    version = read_manifest(directory).version
    if measured is None:
        raise BadInput(
            f"found no column {column} in {settings.eval_dir}, so the artifact {version} in "
            f"{directory} was not measured; run the stage export again, or eval with "
            f"{'onnx_model_path' if settings.use_onnx else 'trt_model_path'}={directory}, or set "
            "eval_dir=null to serve it unmeasured"
        )
    if measured.identity != version:
        raise BadInput(
            f"found the artifact {version} in {directory}, but the column {column} was measured "
            f"on {measured.identity} ({measured.source}); run the stage export again, or name "
            "that directory in model_dir"
        )


def _refuse_foreign_files(home: Path) -> None:
    """Refuse to overwrite endpoint files in a folder in which this stage never ran."""
    if any((home / mark).exists() for mark in (DONE_FILE, STARTED_FILE)):
        return
    for file in (home / ENDPOINT_FILE, home / PROCESS_FILE):
        if file.exists():
            raise OutputRefused(
                f"{file} exists, but no {DONE_FILE} says what made it; move it away, or set "
                "another output_dir"
            )


def _refuse_second(settings: DeployConfig) -> None:
    """One folder has one endpoint: a detached one is replaced or kept, never forgotten."""
    left = detached_endpoint(settings.home)
    if left is None:
        return
    replaceable = left.launcher == settings.launcher and (
        settings.launcher == "process" or left.handle == settings.container_name
    )
    if not replaceable:
        raise OutputRefused(
            f"the endpoint of {settings.home} runs at {left.url}; stop it with: {left.stop}, or "
            "set another output_dir"
        )


def _launcher(settings: DeployConfig) -> Launcher:
    make = DockerLauncher if settings.launcher == "docker" else ProcessLauncher
    # Without the file, a running endpoint was left by a run that was killed.
    replace = settings.replace_existing or not (settings.home / ENDPOINT_FILE).exists()
    log = settings.home / _LOG_FILE
    return make(settings, _model_dir(settings), log, _max_tokens(settings), replace=replace)


def _max_tokens(settings: DeployConfig) -> int | None:
    """The token limit: the server must cut pairs where eval did, or scores would differ."""
    if settings.max_length is not None or settings.eval_dir is None:
        return settings.max_length
    setting = read_setting(Path(settings.eval_dir))
    return None if setting is None else setting.max_length


def _plan(settings: DeployConfig) -> list[str]:
    lines = [
        f"run {_launcher(settings).command_line()}",
        "wait until it is ready and rank with it:",
        _smoke_command(settings),
    ]
    if settings.eval_dir is not None:
        lines.append(f"add the column nim to {settings.eval_dir} and check for drift")
    return lines


def _run(settings: DeployConfig, log: Log) -> None:
    endpoint = _launcher(settings)
    log(f"run {endpoint.command_line()}")
    # A running endpoint now belongs to this run: if it is killed, the next run replaces it.
    (settings.home / ENDPOINT_FILE).unlink(missing_ok=True)
    endpoint.start(log)
    kept = False
    try:
        endpoint.wait_until_ready(settings.health_check_timeout, settings.health_check_interval)
        log(f"ready at {endpoint.url}: {_smoke_test(settings, endpoint)}")
        log(f"try it: {_smoke_command(settings)}")
        if settings.eval_dir is not None:
            directory = Path(settings.eval_dir)
            add_checked_column(directory, "nim", lambda _: _scorer(settings, endpoint.url), log)
        if settings.detach:
            write_json(settings.home / ENDPOINT_FILE, endpoint.record())
            kept = True
            log(f"the endpoint keeps running; to stop it: {endpoint.stop_command()}")
        else:
            _wait(endpoint, log)
    finally:
        if not kept:
            endpoint.stop()


def _alive(settings: DeployConfig) -> str:
    """Whether the endpoint of a finished run still answers."""
    left = detached_endpoint(settings.home)
    if left is None:
        return "its endpoint does not run now"
    return f"its endpoint {left.url} {'answers' if is_ready(left.url) else 'does not answer'}"


def _wait(endpoint: Launcher, log: Log) -> None:
    """Wait for SIGINT or SIGTERM, which ends a deployment in the foreground."""
    # Handle SIGTERM, which supervisors send: by default it would leave the endpoint running.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        log("running until you interrupt this command (detach=true keeps it running)")
        endpoint.wait()
    except KeyboardInterrupt:
        log("interrupted: the endpoint was measured and is now stopped")
    finally:
        signal.signal(signal.SIGTERM, before)


def _bearer(settings: DeployConfig) -> str | None:
    """The key that the endpoint was started with: it requires it under NIM_REQUIRE_AUTH."""
    return os.environ.get(settings.ngc_api_key_env)


def _smoke_test(settings: DeployConfig, endpoint: Launcher) -> str:
    """Send one real ranking, and say its order. Raises BadInput when the endpoint returns none."""
    surface = nim(settings.served_model, truncate="END")
    key = _bearer(settings)
    with RerankClient(
        endpoint.url, api_key=key, timeout_s=_SMOKE_TIMEOUT_S, surface=surface
    ) as client:
        try:
            found = client.rerank(_SMOKE_QUERY, _SMOKE_PASSAGES)
        except RerankError as error:
            raise BadInput(
                f"the endpoint is ready but does not rank ({error}); its last log lines:\n"
                f"{endpoint.last_lines()}"
            ) from error
    right, wrong = found.scores
    told = f"{_SMOKE_PASSAGES[0]!r} {right:.3f}, {_SMOKE_PASSAGES[1]!r} {wrong:.3f}"
    if right > wrong:
        return f"it ranks {_SMOKE_QUERY!r} as it should ({told})"
    return (
        f"warning: it does NOT put the answer to {_SMOKE_QUERY!r} first ({told}); a model of other "
        "texts may, a wrong prompt or model would: see the column nim of the evaluation"
    )


def _scorer(settings: DeployConfig, url: str) -> EndpointScorer:
    """Raises BadConfig for an address or key that cannot be sent in a request."""
    key = _bearer(settings)
    return EndpointScorer(
        url,
        settings.served_model,
        _BATCH,
        _SMOKE_TIMEOUT_S,
        api_key=key,
        key_setting="ngc_api_key_env",
    )


def _smoke_command(settings: DeployConfig) -> str:
    body: dict[str, object] = {
        "query": {"text": _SMOKE_QUERY},
        "passages": [{"text": _SMOKE_PASSAGES[0]}],
    }
    if settings.served_model is not None:
        body = {"model": settings.served_model, **body}
    name = settings.ngc_api_key_env
    bearer = f'-H "Authorization: Bearer ${name}" ' if _bearer(settings) else ""
    return (
        f"curl -X POST {_launcher(settings).url}/v1/ranking {bearer}"
        f"-H 'Content-Type: application/json' -d '{json.dumps(body)}'"
    )


STAGE = Stage(
    name="deploy",
    about="run the artifact as an endpoint, test it and measure its drift",
    settings=DeployConfig,
    inputs=_inputs,
    outputs=lambda settings: [settings.home / _LOG_FILE],
    check_values=_check_values,
    check=_check,
    check_machine=_check_machine,
    alive=_alive,
    plan=_plan,
    run=_run,
    again="always",
)
