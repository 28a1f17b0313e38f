"""Run stages on a cluster: profiles in env.toml, submitted by SkyPilot's command `sky`.

Why SkyPilot and not NeMo-Run: one task file covers Slurm (since SkyPilot 0.12), Kubernetes and
clouds, and a command and a file let it live in its own environment. NeMo-Run is a library whose
pins conflict with ours.

    [base]
    infra = "slurm"                  # or "k8s", "aws", … as in SkyPilot's task file
    remote_dir = "/shared/rerank"    # on the cluster; persists after the job: output goes here
    workdir = "."                    # copied to the job, which runs `setup` in the copy
    setup = "pip install -c constraints.txt ./rerank_client '.[serve-gpu,export,recipe]'"

    [my-cluster]
    extends = "base"
    accelerators = "H100:2"          # per node

    [many]
    extends = "base"
    nodes = 4                        # prep with workers=N and ray_address=auto: see below

With `nodes` above 1 the first node runs the stages and the others are workers of a Ray cluster that
exists only during the job: `rerank prep --run many prep.workers=64 prep.ray_address=auto`. Only
prep runs on several machines; the other stages would use one node only, and are refused.

The job includes the resolved settings. Paths in them are relative to `remote_dir`; put your inputs
there. Source of the task file's keys: SkyPilot's YAML reference.
"""

import difflib
import shlex
import subprocess
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import yaml

from recipe.config import Positive, Recipe
from recipe.config_files import as_yaml
from recipe.errors import BadConfig, LaunchFailed
from runtime.telemetry import SWITCHES

ENV_FILE = "env.toml"
_ROOT_MARKS = ("pyproject.toml", ".git")
_EXTENDS = "extends"
_LOCAL_ONLY = "deploy"
# Stages that run on several machines, by Ray.
_SPREAD = ("prep",)
# Runs on every node, in remote_dir, which all nodes share (names in capitals are SkyPilot's and
# Ray's). All nodes but the first are Ray workers until the first node's Ray ends. A token protects
# it: anyone who can reach a Ray without one can run programs on it. `ray stop` is not used, because
# it would also stop SkyPilot's own Ray on another port.
_RAY_NODES = """\
head=$(echo "$SKYPILOT_NODE_IPS" | head -n1)
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$PWD/.ray-token-$SKYPILOT_TASK_ID"
if [ "$SKYPILOT_NODE_RANK" = 0 ]; then
  (umask 077; od -An -N32 -tx1 /dev/urandom | tr -d ' \\n' > "$RAY_AUTH_TOKEN_PATH")
  ray start --head --port 6379 --include-dashboard=false --block &
  trap "kill $!; rm -f '$RAY_AUTH_TOKEN_PATH'" EXIT
fi
tries=0
until (exec 3<>"/dev/tcp/$head/6379") 2>/dev/null; do
  tries=$((tries + 1))
  [ "$tries" -lt 120 ] || { echo "no Ray at $head:6379 after ten minutes" >&2; exit 1; }
  sleep 5
done
if [ "$SKYPILOT_NODE_RANK" != 0 ]; then
  ray start --address "$head:6379" --block || true
  exit 0
fi
"""


class Profile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One table of env.toml.

    `secrets` are names of environment variables; their values go from this shell to the job and are
    written to no file. `nodes` counts machines. `down` releases them when the job ends.
    """

    infra: str
    remote_dir: str
    workdir: str | None = None
    setup: str = ""
    accelerators: str | None = None
    cpus: str | None = None
    memory: str | None = None
    image: str | None = None
    envs: dict[str, str] = {}
    secrets: list[str] = []
    nodes: Positive = 1
    down: bool = True


def load_profile(name: str, start: Path) -> Profile:
    """The table `name` of the nearest env.toml in `start` or above it, up to the project's root.

    Raises BadConfig.
    """
    file = _find(start)
    try:
        tables = tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadConfig(f"{file} cannot be read: {error}") from error
    values: dict[str, Any] = {}
    seen: list[str] = []
    wanted: Any = name
    while wanted is not None:
        if wanted in seen:
            raise BadConfig(f"{file}: profiles extend in a circle: {', '.join([*seen, wanted])}")
        seen.append(wanted)
        table = tables.get(wanted)
        if not isinstance(table, dict):
            near = difflib.get_close_matches(str(wanted), tables, n=1, cutoff=0.0)
            hint = f"the nearest one is {near[0]!r}" if near else "the file has none"
            raise BadConfig(f"{file} has no profile {wanted!r}; {hint}")
        wanted = table.get(_EXTENDS)
        values = {**{key: value for key, value in table.items() if key != _EXTENDS}, **values}
    for key in values:
        if key not in Profile.__struct_fields__:
            near = difflib.get_close_matches(key, Profile.__struct_fields__, n=1, cutoff=0.0)
            raise BadConfig(f"{file}: {name} has no key {key!r}; the nearest one is {near[0]!r}")
    try:
        return msgspec.convert(values, Profile)
    except msgspec.ValidationError as error:
        raise BadConfig(f"{file}: {name}: {error}") from error


def refuse_local_only(stages: Sequence[str]) -> None:
    """Raise BadConfig for stages that run on this machine only."""
    if _LOCAL_ONLY in stages:
        raise BadConfig(
            f"the stage {_LOCAL_ONLY} does not support remote execution: it starts a server on "
            "this machine; omit --run and --batch, or end with --to export"
        )


def task_file(profile: Profile, stages: Sequence[str], recipe: Recipe, *, force: bool) -> str:
    """The job as SkyPilot's YAML.

    Raises BadConfig for several nodes where one is enough.
    """
    if profile.nodes > 1:
        _refuse_idle_nodes(profile, stages, recipe)
    first, last = stages[0], stages[-1]
    command = f"rerank run -c job.yaml --from {first} --to {last}" + (" --force" if force else "")
    run = (
        f"mkdir -p {shlex.quote(profile.remote_dir)}\n"
        f"cd {shlex.quote(profile.remote_dir)}\n"
        f"{_RAY_NODES if profile.nodes > 1 else ''}"
        f"cat > job.yaml <<'SETTINGS'\n{as_yaml(recipe, stages)}SETTINGS\n{command}\n"
    )
    resources = {
        "infra": profile.infra,
        "accelerators": profile.accelerators,
        "cpus": profile.cpus,
        "memory": profile.memory,
        "image_id": f"docker:{profile.image}" if profile.image else None,
    }
    task = {
        "name": "-".join(["rerank", *dict.fromkeys((first, last))]),
        **({"workdir": profile.workdir} if profile.workdir else {}),
        **({"num_nodes": profile.nodes} if profile.nodes > 1 else {}),
        "resources": {key: value for key, value in resources.items() if value is not None},
        # Ray and other processes that `setup` and `run` start on the cluster.
        "envs": {**profile.envs, **SWITCHES},
        **({"setup": profile.setup} if profile.setup else {}),
        "run": run,
    }
    return str(yaml.dump(task, Dumper=_BlockDumper, sort_keys=False, width=1000))


def _refuse_idle_nodes(profile: Profile, stages: Sequence[str], recipe: Recipe) -> None:
    alone = [stage for stage in stages if stage not in _SPREAD]
    if alone:
        raise BadConfig(
            f"found nodes = {profile.nodes} for {', '.join(alone)}, which run on one machine (with "
            "all its GPUs: finetune.processes); wanted such a profile for prep alone, and one with "
            "nodes = 1 for the rest"
        )
    if recipe.prep.ray_address is None:
        raise BadConfig(
            f"found nodes = {profile.nodes} and no ray_address, so all nodes but one would idle; "
            "set prep.ray_address=auto and prep.workers to the total number of processes"
        )


def launch_command(name: str, profile: Profile, file: str, *, detached: bool) -> list[str]:
    """The command that submits the task file to SkyPilot."""
    command = ["sky", "launch", "--yes", "--cluster", f"rerank-{name}"]
    command += ["--down"] if profile.down else []
    command += ["--detach-run"] if detached else []
    for secret in profile.secrets:
        command += ["--secret", secret]
    return [*command, file]


def launch(name: str, profile: Profile, task: str, *, detached: bool) -> None:
    """Run the job and wait for its end, or only submit it (`detached`). Raises LaunchFailed."""
    with tempfile.TemporaryDirectory(prefix="rerank-job-") as folder:
        file = Path(folder) / "job.yaml"
        file.write_text(task, encoding="utf-8")
        command = launch_command(name, profile, str(file), detached=detached)
        try:
            code = subprocess.run(command, check=False).returncode
        except FileNotFoundError as error:
            raise LaunchFailed(
                "found no command `sky`; install SkyPilot 0.12 or newer in an environment of its "
                "own (pipx install 'skypilot[slurm,kubernetes]') and run `sky check`"
            ) from error
    if code:
        raise LaunchFailed(
            f"sky ended with code {code}; see its output above, and the job's with `sky logs "
            f"rerank-{name}`"
        )


def _find(start: Path) -> Path:
    for folder in (start, *start.parents):
        if (folder / ENV_FILE).is_file():
            return folder / ENV_FILE
        if any((folder / mark).exists() for mark in _ROOT_MARKS):
            break
    raise BadConfig(
        f"found no {ENV_FILE} in {start} or above it up to the project's root; write one with a "
        "table for each profile (see recipe/cluster.py)"
    )


class _BlockDumper(yaml.SafeDumper):  # type: ignore[misc]
    """Writes strings of several lines as YAML block scalars."""


def _text(dumper: yaml.SafeDumper, text: str) -> Any:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_BlockDumper.add_representer(str, _text)
