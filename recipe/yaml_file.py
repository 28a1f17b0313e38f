"""Configuration files, with what OmegaConf's have: `defaults`, `${key}`, `${oc.env:NAME,default}`.

`defaults` names files beside the file (`.yaml` may be omitted), whose keys it overrides. A value
that is one `${…}` keeps the type of what it names.
"""

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from recipe.errors import BadConfig

_SELF = "_self_"
# The innermost reference of a text.
_REFERENCE = re.compile(r"\$\{([^${}]*)\}")
_ENVIRONMENT = "oc.env:"
_MOST_STEPS = 100


def read_file(path: Path, known: str) -> dict[str, Any]:
    """The keys of a TOML or YAML file, resolved; `known` lists the names of `-c`.

    Raises BadConfig.
    """
    return _resolved(_merged(path, known, ()), path)


def _merged(path: Path, known: str, before: tuple[Path, ...]) -> dict[str, Any]:
    """The file's keys over those of its defaults."""
    place = path.resolve()
    if place in before:
        chain = " → ".join(str(one) for one in (*before, place))
        raise BadConfig(f"the defaults of configuration files go round: {chain}")
    content = _content(path, known)
    names = content.pop("defaults", [])
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise BadConfig(f"{path}: found defaults = {names!r}, wanted names of files beside it")
    whole: dict[str, Any] = {}
    for name in names:
        if name != _SELF:
            file = path.parent / name
            file = file if file.suffix else file.with_suffix(".yaml")
            whole = _over(whole, _merged(file, known, (*before, place)))
    return _over(whole, content)


def _content(path: Path, known: str) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BadConfig(
            f"-c {path}: found no such configuration and no readable file; wanted one of {known} "
            "or the path of a TOML or YAML file"
        ) from error
    try:
        is_yaml = path.suffix in {".yaml", ".yml"}
        content = yaml.safe_load(text) or {} if is_yaml else tomllib.loads(text)
    except (yaml.YAMLError, tomllib.TOMLDecodeError) as error:
        raise BadConfig(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise BadConfig(f"{path} holds a {type(content).__name__}, wanted keys and values")
    return content


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Keys of both; where both have one, `above`'s, table by table."""
    whole = dict(below)
    for key, value in above.items():
        under = whole.get(key)
        tables = isinstance(value, dict) and isinstance(under, dict)
        whole[key] = _over(dict(under or {}), value) if tables else value
    return whole


def _resolved(content: dict[str, Any], path: Path) -> dict[str, Any]:
    """`content` without references."""

    def resolve(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: resolve(one) for key, one in value.items()}
        if isinstance(value, list):
            return [resolve(one) for one in value]
        steps = 0
        while isinstance(value, str) and (found := _REFERENCE.search(value)):
            steps += 1
            if steps > _MOST_STEPS:
                raise BadConfig(f"{path}: the references of {found[0]} go round")
            one = _named(found[1], content, path)
            value = one if found[0] == value else value.replace(found[0], str(one))
        return resolve(value) if isinstance(value, dict | list) else value

    found: dict[str, Any] = resolve(content)
    return found


def _named(reference: str, content: Mapping[str, Any], path: Path) -> Any:
    """What `${reference}` stands for, which may hold references itself."""
    if reference.startswith(_ENVIRONMENT):
        name, comma, default = reference.removeprefix(_ENVIRONMENT).partition(",")
        found = os.environ.get(name.strip())
        if found is None and not comma:
            raise BadConfig(
                f"{path}: ${{{reference}}} names the environment variable {name.strip()}, which is "
                f"not set; set it, or give a default: ${{{reference},.}}"
            )
        return yaml.safe_load(default) if found is None else found
    if ":" in reference:
        raise BadConfig(
            f"{path}: found ${{{reference}}}, wanted ${{KEY}} or ${{oc.env:NAME,default}}: no "
            "other resolver of OmegaConf is known here"
        )
    value: Any = content
    for part in reference.split("."):
        if not isinstance(value, dict) or part not in value:
            raise BadConfig(f"{path}: ${{{reference}}} names no key of this file")
        value = value[part]
    return value
