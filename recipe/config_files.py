"""Settings of a command: defaults, a configuration file, the command line.

A configuration file (TOML, or YAML by its suffix) has one table for each stage. A key outside any
table applies to every chosen stage that has it, and so does a bare `key=value` on the command line;
`stage.key=value` names the stage. Precedence: defaults, file, command line. NVIDIA's own
`default.yaml` of each stage can be used as it is.
"""

import difflib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from textwrap import indent
from types import UnionType
from typing import Any, Union, get_args, get_origin

import msgspec
import yaml

from recipe.config import ROOT, STAGE_NAMES, Recipe
from recipe.errors import BadConfig
from recipe.fixed import cannot_matter
from recipe.progress import Log
from recipe.yaml_file import read_file

DEFAULT = "default"
_SHIPPED = Path(__file__).parent / "configs"


def config_names() -> list[str]:
    """The names that `-c` accepts besides a path."""
    return [DEFAULT, *sorted(path.stem for path in _SHIPPED.glob("*.toml"))]


def load(
    name: str,
    chosen: Sequence[str],
    overrides: Iterable[str] = (),
    log: Log = lambda _: None,
) -> Recipe:
    """The settings of `-c name` for the `chosen` stages, overridden by `[stage.]key=value`.

    Logs which of NVIDIA's keys say nothing here. Raises BadConfig; for an unknown key it names a
    known one that is near.
    """
    values: dict[str, dict[str, Any]] = {stage: {} for stage in STAGE_NAMES}
    content, source = _read(name)
    idle: list[str] = []
    for key, value in content.items():
        if key in STAGE_NAMES:
            if not isinstance(value, dict):
                raise BadConfig(f"{source}: found {key} = {value!r}, wanted a table of its keys")
            given = {k: v for k, v in value.items() if not cannot_matter(key, k, v)}
            idle += [k for k in value if k not in given]
            _check_keys(given, _struct_of(key), key, source)
            values[key].update(given)
        elif any(cannot_matter(stage, key, value) for stage in chosen):
            idle.append(key)
        else:
            for stage in _stages_with_key(key, chosen, source):
                values[stage][key] = value
    if idle:
        log(f"{source}: without effect here: {', '.join(dict.fromkeys(idle))}")
    for override in overrides:
        _apply_override(override, chosen, values, log)
    made: dict[str, Any] = {}
    for stage, given in values.items():
        try:
            made[stage] = msgspec.convert(
                _listed({**_moved(stage), **given}, stage), _struct_of(stage), strict=False
            )
        except msgspec.ValidationError as error:
            raise BadConfig(f"{stage}: {error}; `rerank {stage} -d` shows every key") from error
    return Recipe(**made)


def _moved(stage: str) -> dict[str, str]:
    """The default paths below NEMO_RUN_DIR, where that variable is set, as NVIDIA's are."""
    base = os.environ.get("NEMO_RUN_DIR")
    if not base:
        return {}
    usual = _struct_of(stage)()
    paths = {key: getattr(usual, key) for key in usual.__struct_fields__}
    return {
        key: base.rstrip("/") + value[1:]
        for key, value in paths.items()
        if isinstance(value, str) and value.startswith(ROOT)
    }


def _listed(given: dict[str, Any], stage: str) -> dict[str, Any]:
    """`given` with lists of texts for texts with commas: file_extensions=.txt,.md"""
    kinds = {field.name: field.type for field in msgspec.structs.fields(_struct_of(stage))}
    return {
        key: value.split(",") if isinstance(value, str) and kinds.get(key) == list[str] else value
        for key, value in given.items()
    }


def as_yaml(recipe: Recipe, stages: Iterable[str]) -> str:
    """All settings of the stages, resolved, as YAML that `-c` can read."""
    tables = []
    for stage in stages:
        plain = msgspec.to_builtins(getattr(recipe, stage))
        text = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=100)
        tables.append(f"{stage}:\n{indent(text, '  ')}")
    return "".join(tables)


def _read(name: str) -> tuple[dict[str, Any], str]:
    if name == DEFAULT:
        return {}, DEFAULT
    path = _SHIPPED / f"{name}.toml" if name in config_names() else Path(name)
    return read_file(path, ", ".join(config_names())), str(path)


def _apply_override(
    override: str, chosen: Sequence[str], values: dict[str, dict[str, Any]], log: Log
) -> None:
    """Apply one `[stage.]key[.key]=value` of the command line to `values`."""
    name, sign, text = override.partition("=")
    if not sign or not name:
        raise BadConfig(f"found {override!r}, wanted key=value or stage.key=value")
    parts = name.split(".")
    named = parts[0] in STAGE_NAMES and len(parts) > 1
    stages = [parts[0]] if named else list(chosen)
    parts = parts[1:] if named else parts
    if any(cannot_matter(stage, parts[0], _plain(text)) for stage in stages):
        log(f"the command line: without effect here: {name}")
        return
    if not named:
        stages = _stages_with_key(parts[0], chosen, "the command line")
    for stage in stages:
        struct, place = _struct_of(stage), values[stage]
        for depth, part in enumerate(parts):
            _check_keys({part: None}, struct, ".".join([stage, *parts[:depth]]), "the command line")
            kind = next(f.type for f in msgspec.structs.fields(struct) if f.name == part)
            if depth == len(parts) - 1:
                place[part] = _value(text, kind, override)
            elif isinstance(kind, type) and issubclass(kind, msgspec.Struct):
                struct, place = kind, place.setdefault(part, {})
            else:
                raise BadConfig(f"found {override!r}, but {part} has no keys of its own")


def _plain(text: str) -> Any:
    """The value of a key that has no type here."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _value(text: str, kind: Any, override: str) -> Any:
    """A value of the command line as type `kind`; strings are taken verbatim."""
    kinds = set(get_args(kind)) if get_origin(kind) in {Union, UnionType} else {kind}
    if type(None) in kinds and text in {"null", "none", ""}:
        return None
    if str in kinds:
        return text
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise BadConfig(f"found {override!r}, whose value is not YAML: {error}") from error


def _stages_with_key(key: str, chosen: Sequence[str], source: str) -> list[str]:
    """The chosen stages that have `key`."""
    found = [stage for stage in chosen if key in _struct_of(stage).__struct_fields__]
    elsewhere = [stage for stage in STAGE_NAMES if key in _struct_of(stage).__struct_fields__]
    if not found and elsewhere:
        raise BadConfig(
            f"{source}: {' and '.join(chosen)} has no key {key!r}, which {' and '.join(elsewhere)} "
            f"has: write {elsewhere[0]}.{key}, or use this with `rerank {elsewhere[0]}`"
        )
    if not found:
        known = {name for stage in chosen for name in _struct_of(stage).__struct_fields__}
        raise _unknown(key, {*known, *STAGE_NAMES}, " and ".join(chosen), source)
    return found


def _check_keys(
    given: dict[str, Any], struct: type[msgspec.Struct], place: str, source: str
) -> None:
    kinds = {field.name: field.type for field in msgspec.structs.fields(struct)}
    for key, value in given.items():
        if key not in kinds:
            raise _unknown(key, kinds, place, source)
        kind = kinds[key]
        if isinstance(value, dict) and isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            _check_keys(value, kind, f"{place}.{key}", source)


def _unknown(key: object, known: Iterable[str], place: str, source: str) -> BadConfig:
    # YAML keys may be of any type.
    near = difflib.get_close_matches(str(key), known, n=1)
    return BadConfig(
        f"{source}: {place} has no key {key!r}; "
        + (f"the nearest one is {near[0]!r}, and " if near else "")
        + f"`rerank {place.split('.')[0].split(' ')[0]} -d` shows all"
    )


def _struct_of(stage: str) -> type[msgspec.Struct]:
    (kind,) = (f.type for f in msgspec.structs.fields(Recipe) if f.name == stage)
    return kind  # type: ignore[no-any-return]
