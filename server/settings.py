"""Settings: the only reader of the environment.

An invalid value stops the start; the message names the variable, what was found and what is wanted.
An empty value counts as not set, because compose files write `${NAME:-}`.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, get_args, get_type_hints

from runtime.errors import ServingError
from runtime.postprocess import InputType
from runtime.profile import Kind
from runtime.vision.limits import VisionLimits
from server.values import InvalidValue
from server.variables import (
    BY_TYPE,
    KEYS,
    NVIDIA_ONNX_PROFILES,
    OPTIONS,
    OTHER_LEVELS,
    TRITON,
    VARIABLES,
    Variable,
    asks_for_nothing,
)

# max_batch_size of NVIDIA's models in their Triton configuration: the default limit of texts in a
# request.
MAX_BATCH_SIZES: Mapping[Kind, int] = {"rank": 64, "embed": 30}
# The key in NVIDIA's compose file that stands for no key.
_DUMMY_KEY = "ngcapikey"
_MOST_QUOTED = 80
_VISION = VisionLimits()
# Python's stand-ins for bytes of the environment that are not UTF-8.
_NOT_UTF_8 = re.compile("[\ud800-\udfff]")
# The only file in an image's RERANK_MODEL_DIR before a model is put there.
NO_MODEL = ".no-model"
# Settings that decide how a model is opened; the error about a model that cannot be opened lists
# them.
_DIR_FIELDS = ("custom_dir", "rank_dir", "embed_dir")
_MODEL_FIELDS = (
    *_DIR_FIELDS,
    *("model_profile", "target", "triton_engine", "max_tokens", "max_rows"),
    *("cache_dir", "gpu_memory_bytes", "host_code"),
)
_OTLP = ("http/protobuf",)
_OTEL_VALUES: Mapping[str, tuple[str, ...]] = {
    "OTEL_TRACES_EXPORTER": ("otlp", "console", "none"),
    "OTEL_EXPORTER_OTLP_PROTOCOL": _OTLP,
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": _OTLP,
}


class SettingsError(ServingError):
    """An invalid setting; the message begins with its name."""

    def __init__(self, name: str, found: str, wanted: str) -> None:
        self.name = name
        super().__init__(f"{name}: found {found}, wanted {wanted}")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The server's settings.

    Models: `rank_dir` and `embed_dir` are the served directories. `custom_dir` is a directory of
    either kind, or the reranker beside an embedder. All are None only for the mock. `target` is the
    target that the artifact must have been exported for; AUTO or ONNX choose the best engine; None
    takes the artifact's own. `triton_engine` is the reranker's remote engine with its address.
    `default_input_type` applies to embedding requests without one. `cache_dir`, `gpu_memory_bytes`
    and `host_code` are for GPU engines. None for `max_rows` and `max_tokens` keeps the artifact's
    own limits. `image_bytes` and `image_pixels` bound one image, `image_tiles` those of a request,
    `image_cache_bytes` what each model keeps. `model_args` are the variables that decide how a
    model is opened, as NAME=value.

    Listening: a port of 0 is off. `keys` are the accepted bearers; without any, no key is needed.
    No `allowed_hosts` means any. Both TLS files are set or none. `notices` are lines to log at the
    start. `otel` are OpenTelemetry's variables, under its own names.
    """

    custom_dir: Path | None = None
    rank_dir: Path | None = None
    embed_dir: Path | None = None
    mock: bool = False
    model_profile: str | None = None
    target: str | None = None
    triton_engine: str | None = None
    served_name: str | None = None
    default_input_type: InputType | None = None
    model_version: str | None = None
    max_rows: int | None = None
    max_passages: int = MAX_BATCH_SIZES["rank"]
    embed_max_inputs: int = MAX_BATCH_SIZES["embed"]
    max_tokens: int | None = None
    cache_dir: Path | None = None
    gpu_memory_bytes: int | None = None
    host_code: bool = False
    body_limit_bytes: int = 64 << 20
    image_bytes: int = _VISION.image.bytes
    image_pixels: int = _VISION.image.pixels
    image_tiles: int = _VISION.request_tiles
    image_cache_bytes: int = _VISION.cache_bytes
    request_timeout_s: int = 120
    queue_rows: int = 8192
    queue_tokens: int = 1 << 22
    engine_patience_s: int = 240
    header_timeout_s: int = 20
    drain_timeout_s: int = 25
    batch_window_us: int = 0
    overload_status: int = 503
    plain_special_tokens: bool = False
    too_long_status: int = 422
    host: str = "0.0.0.0"
    port: int = 8000
    metrics_port: int = 8002
    grpc_port: int = 8001
    triton_port: int = 0
    ui: bool = True
    keys: tuple[str, ...] = field(default=(), repr=False)
    tls_cert: Path | None = None
    tls_key: Path | None = None
    allowed_hosts: tuple[str, ...] = ()
    model_control: bool = False
    log_level: str = "INFO"
    json_logs: bool = False
    tracing: bool = False
    otel: Mapping[str, str] = field(default_factory=dict, repr=False)
    notices: tuple[str, ...] = ()
    model_args: tuple[str, ...] = ()


class _Choice(NamedTuple):
    row: Variable
    value: object


_HINTS = get_type_hints(Settings)


def _value(chosen: Mapping[str, _Choice], name: str) -> object:
    """The chosen value of a field; None if no variable sets it."""
    return chosen[name].value if name in chosen else None


def _type_of(name: str) -> object:
    """The type of a field of Settings, which may also be None."""
    return next(iter(get_args(_HINTS[name])), _HINTS[name])


def read_settings(
    environ: Mapping[str, str], options: Mapping[str, str] = MappingProxyType({})
) -> Settings:
    """Read the settings from `environ`; command line `options` (--rank, --embed …) take precedence.

    Raises SettingsError.
    """
    for name, value in environ.items():
        if _NOT_UTF_8.search(value) and _row(name):
            raise SettingsError(name, "bytes that are not UTF-8", "text")
    given = {name: value.strip() for name, value in environ.items() if value.strip()}
    given |= options
    _refuse(given)
    chosen = _choose(_without_other_models(_without_unfilled_place(given)))
    _check_model_dirs(chosen)
    _check_triton(chosen)
    keys = _accepted_keys(given, chosen)
    _check_tls(chosen)
    args = (f"{c.row.name}={c.value}" for f, c in chosen.items() if f in _MODEL_FIELDS)
    return Settings(
        **_values(chosen, keys),
        keys=keys,
        otel=_otel(given) if _value(chosen, "tracing") else {},
        notices=tuple(_notices(given, chosen, keys)),
        model_args=tuple(args),
    )


def environment_table() -> str:
    """The table of all variables in Markdown, for docs/environment.md."""
    lines = ["| variable | status | default | effect |", "|---|---|---|---|"]
    defaults = {field.name: field.default for field in fields(Settings)}
    for row in VARIABLES:
        # A field's first row has its default, the synonyms have none.
        own = defaults.pop(row.field or "", None)
        default = row.default or (json.dumps(own).strip('"') if own not in (None, ()) else "")
        default = f"`{default}`" if default.isalnum() else default
        lines.append(f"| `{row.name}` | {row.fate} | {default} | {row.effect} |")
    return "\n".join(lines) + "\n"


def _row(name: str) -> Variable | None:
    """The row that speaks about the variable called `name`."""
    return next((row for row in VARIABLES if row.matches(name)), None)


def _refuse(given: Mapping[str, str]) -> None:
    for row in VARIABLES:
        value = given.get(row.name, "")
        if row.fate == "refused" and value and not asks_for_nothing(value):
            raise SettingsError(row.name, _quoted(value), f"it not set: {row.effect}")


def _choose(given: Mapping[str, str]) -> dict[str, _Choice]:
    """The row and value for each field; of synonyms, the first one that is set."""
    chosen: dict[str, _Choice] = {}
    for row in (*OPTIONS, *VARIABLES):
        if row.field is None or row.name not in given or row.field in chosen:
            continue
        try:
            read = row.read or BY_TYPE[_type_of(row.field)]
            chosen[row.field] = _Choice(row, read(given[row.name]))
        except InvalidValue as error:
            raise SettingsError(row.name, _quoted(given[row.name]), str(error)) from None
    return chosen


def _without_unfilled_place(given: Mapping[str, str]) -> dict[str, str]:
    """`given` without an image's own RERANK_MODEL_DIR if no model was put there.

    An empty directory is kept, because it is a failed mount.
    """
    kept = dict(given)
    place = kept.get("RERANK_MODEL_DIR")
    if place and _entries(place) == [NO_MODEL]:
        del kept["RERANK_MODEL_DIR"]
    return kept


def _entries(directory: str) -> list[str]:
    """The names in the directory; none if it does not exist or cannot be read."""
    try:
        return os.listdir(directory)
    except OSError:
        return []


def _without_other_models(given: Mapping[str, str]) -> dict[str, str]:
    """`given` with one source of models: the command line, else NIM_CUSTOM_MODEL, else our own.

    Images set RERANK_MODEL_DIR; a user who mounts a model wants only that model.
    """
    options, variables = (
        {row.name for row in rows if row.field in _DIR_FIELDS} for rows in (OPTIONS, VARIABLES)
    )
    for source in (options, {"NIM_CUSTOM_MODEL"}):
        if source & given.keys():
            others = (options | variables) - source
            return {name: value for name, value in given.items() if name not in others}
    return dict(given)


def _check_model_dirs(chosen: Mapping[str, _Choice]) -> None:
    if _value(chosen, "mock"):
        return
    found = [chosen[name] for name in _DIR_FIELDS if name in chosen]
    if not found:
        raise SettingsError(
            "NIM_CUSTOM_MODEL",
            "nothing to serve",
            "an artifact directory here, in RERANK_MODEL_DIR or EMBED_MODEL_DIR, or as --rank DIR "
            "or --embed DIR (or ENABLE_MOCK_INFERENCE=1)",
        )
    for row, path in found:
        if not os.path.isdir(str(path)):  # Path.is_dir raises without permission
            raise SettingsError(row.name, _quoted(str(path)), "an existing directory to serve")


def _check_triton(chosen: Mapping[str, _Choice]) -> None:
    if _value(chosen, "target") == TRITON and "triton_engine" not in chosen:
        raise SettingsError(
            chosen["target"].row.name,
            "triton without an address",
            "TRITON_GRPC_ENDPOINT or TRITON_HTTP_ENDPOINT as well",
        )


def _otel(given: Mapping[str, str]) -> dict[str, str]:
    """OpenTelemetry's variables by its own names; those with the prefix NIM_ take precedence."""
    spelled = sorted(name for name in given if name.startswith(("NIM_OTEL_", "OTEL_")))
    found = {}
    for name in reversed(spelled):  # so that NIM_OTEL_ overwrites
        own = name.removeprefix("NIM_")
        wanted = _OTEL_VALUES.get(own)
        if wanted is not None and given[name] not in wanted:
            raise SettingsError(name, _quoted(given[name]), " or ".join(wanted))
        if own.endswith("_ENDPOINT") and not given[name].startswith(("http://", "https://")):
            raise SettingsError(name, _quoted(given[name]), "a URL, such as http://collector:4318")
        found[own] = given[name]
    return found


def _accepted_keys(given: Mapping[str, str], chosen: Mapping[str, _Choice]) -> tuple[str, ...]:
    """The accepted bearers; none without NIM_REQUIRE_AUTH."""
    if not _value(chosen, "require_auth"):
        return ()
    found = [given[name] for name in KEYS if name in given]
    if not found:
        wanted = f"one of {', '.join(KEYS)} as well"
        raise SettingsError("NIM_REQUIRE_AUTH", "true without a key", wanted)
    return tuple(dict.fromkeys(found))


def _check_tls(chosen: Mapping[str, _Choice]) -> None:
    for name, partner, wanted in (
        ("tls_cert", "tls_key", "NIM_TLS_KEY_PATH"),
        ("tls_key", "tls_cert", "NIM_TLS_CERT_PATH"),
    ):
        if name in chosen and partner not in chosen:
            raise SettingsError(chosen[name].row.name, "it alone", f"{wanted} as well")


def _notices(
    given: Mapping[str, str], chosen: Mapping[str, _Choice], keys: tuple[str, ...]
) -> Iterator[str]:
    for name in sorted(given):
        row = _row(name)
        if row is None:
            continue
        if row.fate == "tolerated":
            yield f"{name} has no effect: {row.effect}"
        elif row.field is not None and row.field in chosen:
            winner = chosen[row.field].row.name
            if winner != name and given[winner] != given[name]:
                yield f"{name} has no effect: {winner} is set as well"
        elif row.field in _DIR_FIELDS:
            yield f"{name} has no effect: another model was named to be served"
    level = chosen.get("log_level")
    if level is not None and given[level.row.name].upper() in OTHER_LEVELS:
        yield f"{level.row.name}={given[level.row.name]} is taken for {level.value}"
    if given.get("NIM_MODEL_PROFILE") in NVIDIA_ONNX_PROFILES:
        yield (
            "NIM_MODEL_PROFILE names NVIDIA's ONNX fp16 profile: an ONNX artifact is served, on "
            "the best hardware here and in the precision that it was exported in"
        )
    if _DUMMY_KEY in keys:
        yield "NIM_REQUIRE_AUTH accepts the key of NVIDIA's examples; choose another one"


def _values(chosen: Mapping[str, _Choice], keys: tuple[str, ...]) -> dict[str, Any]:
    """The values of the chosen fields; those that depend on another get their defaults here."""
    values: dict[str, Any] = {name: choice.value for name, choice in chosen.items()}
    values.pop("require_auth", None)
    if bind := values.pop("bind", None):
        values = {"host": bind[0], "port": bind[1], **values}
    if rows := values.get("max_rows"):
        values.setdefault("max_passages", min(MAX_BATCH_SIZES["rank"], rows))
        values.setdefault("embed_max_inputs", rows)
    if timeout_s := values.get("request_timeout_s"):
        values.setdefault("engine_patience_s", 2 * timeout_s)
    values.setdefault("model_control", bool(keys))
    return values


def _quoted(value: str) -> str:
    return repr(value if len(value) <= _MOST_QUOTED else value[:_MOST_QUOTED] + "…")
