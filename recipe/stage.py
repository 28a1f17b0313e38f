"""Stages of the recipe, and the code that runs them.

A stage is one file with a `STAGE` at its end, and a row in `recipe/table.py`. It declares its
output folder, its inputs and the stages that make them, and does its work in `run`. `perform` does
the common steps:

1. check that the inputs exist (BadInput names the stage that makes them) and that no input is in
   an output
2. lock the stage's folder (`home`), so that two runs cannot mix their output
3. pin names on the hub (`pin`) to the commits that an earlier run recorded, or else to the current
   ones; `check`: every problem that can be found cheaply
4. compare the marks in the folder: finished with the same settings and inputs → nothing to do;
   finished or begun with others → OutputRefused; begun with the same → continue; `force` → start
   over: remove the outputs that the marks list, and rename other files that are in the way
5. write `started.json`, call `run`, write `done.json` last; a `run` that fails before it has made
   anything does not count as begun

Both files hold the same provenance: settings, seed, versions, outputs, and the identity of every
input: the sha256 of a path, the commit of a name on the hub.
`run` must be able to continue after a kill at any moment: it keeps finished work in files that are
complete or absent (`recipe/durable.py`), and gives the same result as an uninterrupted run.
"""

import hashlib
import os
import platform
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import msgspec

from recipe.addresses import public_address
from recipe.clearing import clear
from recipe.durable import read_json, write_json
from recipe.errors import BadInput, OutputRefused
from recipe.fixed import refuse_other_values
from recipe.hub import UNKNOWN, is_commit
from recipe.progress import Log
from runtime.outputs import locked_directory, refuse_inputs

STARTED_FILE, DONE_FILE = "started.json", "done.json"
_SCHEMA = 1
# Packages whose versions may change a result.
_PACKAGES = (
    "open-rerank",
    "msgspec",
    "numpy",
    "onnx",
    "onnxruntime",
    "pyarrow",
    "tokenizers",
    "torch",
    "transformers",
)

Settings = TypeVar("Settings", bound=msgspec.Struct)


@dataclass(frozen=True)
class Input:
    """A file or directory that a stage reads; `made_by` is the stage making it (None: the user)."""

    path: Path
    what: str
    made_by: str | None


@dataclass(frozen=True)
class Stage(Generic[Settings]):
    """One step of the recipe; the functions take the stage's settings.

    The settings' `home` is the folder of the two marks. `outputs` are the files and folders
    that the stage writes and that `--force` removes; caches that runs with other settings may
    share are not among them. Three checks raise BadInput or BadConfig before any expensive work:
    `check_values` sees the settings alone, `check` the inputs too, and `check_machine` what the
    environment gives (keys, Docker, models of the hub).
    `plan` describes, line by line, what would run. `alive` says whether what a finished stage
    started still works. `free` names the settings that change no
    result, so that a run may continue with other values. `sources` identifies the inputs that
    are not local paths, by name; it may call the hub. `pin` puts these commits into the
    settings that `check` and `run` get. `again` says when a finished stage runs again without
    force: never, when its settings or inputs changed (its run adds to the existing output), or
    always: to restore outputs that other stages dropped (keeps its provenance unless settings
    or inputs changed), or to redo everything.
    """

    name: str
    about: str
    settings: type[Settings]
    inputs: Callable[[Settings], Sequence[Input]]
    outputs: Callable[[Settings], Sequence[Path]]
    check: Callable[[Settings], None]
    plan: Callable[[Settings], Sequence[str]]
    run: Callable[[Settings, Log], None]
    check_values: Callable[[Settings], None] = lambda _: None
    check_machine: Callable[[Settings], None] = lambda _: None
    alive: Callable[[Settings], str] = lambda _: ""
    free: frozenset[str] = frozenset()
    sources: Callable[[Settings], Mapping[str, str]] = lambda _: {}
    pin: Callable[[Settings, Mapping[str, str]], Settings] = lambda settings, _: settings
    again: Literal["never", "changed", "repair", "always"] = "never"


class Provenance(msgspec.Struct, frozen=True, kw_only=True):
    """started.json, and done.json once `finished_at` is set (both times in UTC, ISO 8601).

    `outputs` are all paths that the stage writes, relative to the marks' folder; paths that existed
    before it began are not among them.
    """

    schema: int
    stage: str
    settings: dict[str, Any]
    seed: int
    inputs: dict[str, str]
    versions: dict[str, str]
    started_at: str
    finished_at: str | None = None
    outputs: list[str] = []


def perform(stage: Stage[Any], settings: Any, *, force: bool, log: Log) -> bool:
    """Run `stage`; False when it was already finished and nothing was done.

    Raises RecipeError; errors of the stage itself pass through.
    """
    home = settings.home
    stage.check_values(settings)
    require_inputs(stage, settings)
    refuse_read(stage, settings, [one.path for one in stage.inputs(settings)])
    home.mkdir(parents=True, exist_ok=True)
    busy = f"another run of {stage.name} works in {home}; wait for it, or choose another directory"
    with locked_directory(home, busy):
        _refuse_other_stage(stage, home)
        sources = _sources(stage, settings, {} if force else _recorded(home), log)
        pinned = stage.pin(settings, sources)
        refuse_other_values(pinned)
        stage.check(pinned)
        stage.check_machine(pinned)
        made = {name for mark in _marks(home) for name in mark.outputs}
        outputs = _outputs(stage, settings)
        now = _provenance(stage, settings, sources)
        if force:
            for name in (DONE_FILE, STARTED_FILE):
                (home / name).unlink(missing_ok=True)
            clear(outputs, made, log)
        made |= {name for path, name in outputs.items() if not path.exists()}
        now = msgspec.structs.replace(now, outputs=sorted(made))
        began = _provenance_to_continue(stage, settings, now)
        if began is None:
            log(f"already finished ({home / DONE_FILE}); --force does it again")
            return False
        write_json(home / STARTED_FILE, began)
        try:
            stage.run(pinned, log)
        except Exception:
            # For example a name unknown to the hub: no output exists that others could mix with.
            if not any(path.exists() for path in stage.outputs(settings)):
                (home / STARTED_FILE).unlink()
            raise
        write_json(home / DONE_FILE, msgspec.structs.replace(began, finished_at=_now()))
        (home / STARTED_FILE).unlink()
        return True


def require_inputs(
    stage: Stage[Any], settings: Any, made_before: Collection[Path] = frozenset()
) -> None:
    """Raise BadInput for the first input that is missing and not one of `made_before`."""
    for wanted in stage.inputs(settings):
        if wanted.path not in made_before and not wanted.path.exists():
            maker = (
                f"run `rerank {wanted.made_by}` with the same -c first"
                if wanted.made_by
                else "create it, change the setting, or run this where it is"
            )
            here = "" if wanted.path.is_absolute() else f" in {Path.cwd()}"
            raise BadInput(f"found no {wanted.what} at {wanted.path}{here}; {maker}")


def refuse_read(stage: Stage[Any], settings: Any, read: Sequence[Path]) -> None:
    """Raise OutputRefused when an output of the stage is, or contains, a path in `read`."""
    home = settings.home
    for path in (home / DONE_FILE, home / STARTED_FILE, *stage.outputs(settings)):
        refuse_inputs(path, *read)


def state(stage: Stage[Any], settings: Any) -> str:
    """The state of the stage: "finished", "begun" or "not begun", and whether with other settings.

    Inputs are not compared.
    """
    home = settings.home
    # Beside done.json when a finished stage was started again.
    begun = (home / STARTED_FILE).exists()
    if not begun and not (home / DONE_FILE).exists():
        return "not begun"
    word = "begun" if begun else "finished"
    before = read_mark(home / (STARTED_FILE if begun else DONE_FILE))
    if before is None or before.stage != stage.name:
        return word
    now = msgspec.structs.replace(before, settings=_recorded_settings(settings))
    changed = _difference(stage, before, now)
    if changed:
        refused = "; a run is refused without --force" if stage.again == "never" else ""
        return f"{word} with {changed}{refused}"
    alive = "" if begun else stage.alive(settings)
    return f"{word}; {alive}" if alive else word


def read_mark(path: Path) -> Provenance | None:
    """A started.json or done.json; None when it is missing. Raises OutputRefused."""
    return read_json(
        path,
        Provenance,
        lambda error: OutputRefused(
            f"{path} cannot be read ({error}), so the origin of the files beside it is unknown; "
            "--force starts over"
        ),
    )


def _provenance_to_continue(stage: Stage[Any], settings: Any, now: Provenance) -> Provenance | None:
    """The provenance to continue with; None when everything is finished."""
    home = settings.home
    done, begun = read_mark(home / DONE_FILE), read_mark(home / STARTED_FILE)
    if stage.again == "repair" and done is not None and not _difference(stage, done, now):
        return msgspec.structs.replace(done, finished_at=None)
    if (before := begun or done) is not None:
        changed = _difference(stage, before, now)
        if changed and stage.again == "never":
            how = "begun with {}; continue with those," if begun else "finished with {};"
            raise OutputRefused(
                f"{home} was {how.format(changed)} choose another output directory, or start over "
                "with --force, which removes the existing output"
            )
        if changed:
            return now
        if begun is not None:
            return msgspec.structs.replace(now, started_at=begun.started_at)
        return now if stage.again == "always" else None
    outputs = _outputs(stage, settings).items()
    foreign = next((path for path, name in outputs if name not in now.outputs), None)
    if foreign is not None and stage.again != "repair":  # such a stage checks its output itself
        raise OutputRefused(
            f"{foreign} exists, but no {DONE_FILE} says what made it; move it away, or start "
            "over with --force, which renames it"
        )
    return now


def _difference(stage: Stage[Any], before: Provenance, now: Provenance) -> str:
    """The first difference between two provenances; "" when results cannot differ."""
    keys = [*now.settings, *(key for key in before.settings if key not in now.settings)]
    for key in keys:
        found, wanted = before.settings.get(key), now.settings.get(key)
        if key not in stage.free and found != wanted:
            return f"{key} = {found!r}, wanted {wanted!r}"
    for path in sorted({*before.inputs, *now.inputs}):
        found, wanted = before.inputs.get(path), now.inputs.get(path)
        if found != wanted and UNKNOWN not in (found, wanted):
            return f"another content of {path}"
    return ""


def _recorded(home: Path) -> Mapping[str, str]:
    """The input identities of the begun or finished run in `home`."""
    before = read_mark(home / STARTED_FILE) or read_mark(home / DONE_FILE)
    return {} if before is None else before.inputs


def _sources(
    stage: Stage[Any], settings: Any, recorded: Mapping[str, str], log: Log
) -> dict[str, str]:
    """The stage's sources, each name on the hub at the commit that was `recorded` for it.

    A branch may move while a run is stopped; the run continues with the old commit.
    """
    found = dict(stage.sources(settings))
    for name, commit in found.items():
        before = recorded.get(name, "")
        if is_commit(before):
            found[name] = before
            if commit not in (before, UNKNOWN):
                log(
                    f"warning: {name} is {commit} now; this run keeps {before}, recorded "
                    "when it began: --force takes the new one"
                )
        elif commit == UNKNOWN:
            log(f"warning: {name} is recorded without its commit: the hub was not reached")
        elif is_commit(commit) and commit not in name:
            log(f"{name}: pinned to the commit {commit}")
    return found


def _provenance(stage: Stage[Any], settings: Any, sources: Mapping[str, str]) -> Provenance:
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return Provenance(
        schema=_SCHEMA,
        stage=stage.name,
        settings=_recorded_settings(settings),
        seed=settings.seed,
        inputs={
            **{str(one.path): hash_of(one.path) for one in stage.inputs(settings)},
            **sources,
        },
        versions=versions,
        started_at=_now(),
    )


def _recorded_settings(settings: Any) -> dict[str, Any]:
    """The settings as JSON has them. What signs in at an address decides no result and is nobody's
    to read."""
    found: dict[str, Any] = msgspec.json.decode(
        public_address(msgspec.json.encode(settings).decode())
    )
    return found


def hash_of(path: Path) -> str:
    """sha256 of a file, or of the names and contents of all files in a directory."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    whole, marks = hashlib.sha256(), {STARTED_FILE, DONE_FILE}
    for one in sorted(p for p in path.rglob("*") if p.is_file() and p.name not in marks):
        whole.update(f"{one.relative_to(path).as_posix()}\0{hash_of(one)}\n".encode())
    return whole.hexdigest()


def _refuse_other_stage(stage: Stage[Any], home: Path) -> None:
    for mark in _marks(home):
        if mark.stage != stage.name:
            raise OutputRefused(
                f"{home} holds output of the stage {mark.stage}; choose another directory for "
                f"{stage.name}"
            )


def _marks(home: Path) -> list[Provenance]:
    """The readable marks in `home`."""
    found = []
    for name in (DONE_FILE, STARTED_FILE):
        with suppress(OutputRefused):
            found += [mark] if (mark := read_mark(home / name)) else []
    return found


def _outputs(stage: Stage[Any], settings: Any) -> dict[Path, str]:
    """Each output with its path relative to `home`."""
    home = settings.home
    return {path: os.path.relpath(path, home) for path in stage.outputs(settings)}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
