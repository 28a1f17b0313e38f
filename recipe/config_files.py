"""Settings of a command: defaults, a configuration file, the command line.

A configuration file (TOML, or YAML by its suffix) has one table for each stage. A key outside any
table applies to every chosen stage that has it, and so does a bare `key=value` on the command line;
`stage.key=value` names the stage. Precedence: defaults, file, command line.
"""

import difflib
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from textwrap import indent
from types import UnionType
from typing import Any, Union, get_args, get_origin

import msgspec
import yaml

from recipe.config import STAGE_NAMES, Recipe
from recipe.errors import BadConfig

DEFAULT = "default"
_SHIPPED = Path(__file__).parent / "configs"


def config_names() -> list[str]:
    """The names that `-c` accepts besides a path."""
    return [DEFAULT, *sorted(path.stem for path in _SHIPPED.glob("*.toml"))]


def load(name: str, chosen: Sequence[str], overrides: Iterable[str] = ()) -> Recipe:
    """The settings of `-c name` for the `chosen` stages, overridden by `[stage.]key=value`.

    Raises BadConfig; for an unknown key it names the nearest known one.
    """
    values: dict[str, dict[str, Any]] = {stage: {} for stage in STAGE_NAMES}
    content, source = _read(name)
    for key, value in content.items():
        if key in STAGE_NAMES:
            if not isinstance(value, dict):
                raise BadConfig(f"{source}: found {key} = {value!r}, wanted a table of its keys")
            _check_keys(value, _struct_of(key), key, source)
            values[key].update(value)
        else:
            for stage in _stages_with_key(key, chosen, source):
                values[stage][key] = value
    for override in overrides:
        _apply_override(override, chosen, values)
    made: dict[str, Any] = {}
    for stage, given in values.items():
        try:
            made[stage] = msgspec.convert(given, _struct_of(stage), strict=False)
        except msgspec.ValidationError as error:
            raise BadConfig(f"{stage}: {error}; `rerank {stage} -d` shows every key") from error
    return Recipe(**made)


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
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        known = ", ".join(config_names())
        raise BadConfig(
            f"-c {name}: found no such configuration and no readable file; wanted one of {known} "
            "or the path of a TOML or YAML file"
        ) from error
    try:
        is_yaml = path.suffix in {".yaml", ".yml"}
        content = yaml.safe_load(text) or {} if is_yaml else tomllib.loads(text)
    except (yaml.YAMLError, tomllib.TOMLDecodeError) as error:
        raise BadConfig(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise BadConfig(f"{path} holds a {type(content).__name__}, wanted keys and values")
    return content, str(path)


def _apply_override(
    override: str, chosen: Sequence[str], values: dict[str, dict[str, Any]]
) -> None:
    """Apply one `[stage.]key[.key]=value` of the command line to `values`."""
    name, sign, text = override.partition("=")
    if not sign or not name:
        raise BadConfig(f"found {override!r}, wanted key=value or stage.key=value")
    parts = name.split(".")
    if parts[0] in STAGE_NAMES and len(parts) > 1:
        stages, parts = [parts[0]], parts[1:]
    else:
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
    near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.0)
    return BadConfig(
        f"{source}: {place} has no key {key!r}; the nearest one is {near[0]!r}, and "
        f"`rerank {place.split('.')[0].split(' ')[0]} -d` shows all"
    )


def _struct_of(stage: str) -> type[msgspec.Struct]:
    (kind,) = (f.type for f in msgspec.structs.fields(Recipe) if f.name == stage)
    return kind  # type: ignore[no-any-return]
