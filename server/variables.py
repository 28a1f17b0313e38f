"""The one table of environment variables: every name a NIM user may set, and what it does here.

Options of the command line are rows as well: they are synonyms that go first.

The names are those of NVIDIA's documentation for the 1.x and 2.x retrieval NIMs, of the images,
compose files and Kubernetes operator that set them, and our own (RERANK_*).
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from runtime.postprocess import InputType
from runtime.profile import model_profile_names, target_profile_names
from runtime.selection import AUTO, ONNX

Fate = Literal["honoured", "tolerated", "refused"]

# ONNX fp16 for rerank 1.5 … 1.10 and for embedding 1.13; many published run scripts pin them.
NVIDIA_ONNX_PROFILES = (
    "f7391ddbcb95b2406853526b8e489fedf20083a2420563ca3e65358ff417b10f",
    "e28f17c9c13a99055d065f88d725bf93c23b3aab14acd68f16323de1353fc528",
)

# The target of a reranker that a Triton computes, whatever its artifact was exported for.
TRITON = "triton"
_TRUE = ("1", "true", "yes", "on")
_FALSE = ("0", "false", "no", "off")
_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
# Other NIMs' words, other loggers' spellings, and the level that each stands for here.
OTHER_LEVELS = {"DEFAULT": "INFO", "TRACE": "DEBUG", "WARN": "WARNING", "FATAL": "CRITICAL"}
_MAX_PORT = 65535
_MAX_DIGITS = 12
_LONGEST_WINDOW_US = 1_000_000
_INPUT_TYPES: tuple[InputType, ...] = get_args(InputType)


class InvalidValue(ValueError):
    """A value that cannot be read; the text says what is wanted."""


@dataclass(frozen=True)
class Variable:
    """One row: `field` of Settings and `read` are set when it is honoured, but for names that end
    in "*" (settings.py gathers those).

    Rows with the same `field` are synonyms; the first one that is set counts. A name ending in
    "*" stands for every variable with that beginning.
    """

    name: str
    fate: Fate
    effect: str
    default: str = ""
    field: str | None = None
    read: Callable[[str], object] | None = None

    def matches(self, name: str) -> bool:
        """Whether this row speaks about the variable called `name`."""
        if self.name.endswith("*"):
            return name.startswith(self.name[:-1])
        return name == self.name


def asks_for_nothing(value: str) -> bool:
    """A refused variable that is switched off does no harm."""
    return value.lower() in _FALSE


def _text(value: str) -> str:
    return value


def _flag(value: str) -> bool:
    if value.lower() in _TRUE:
        return True
    if value.lower() in _FALSE:
        return False
    raise InvalidValue(f"one of {', '.join(_TRUE + _FALSE)}")


def _whole(low: int, high: int | None = None) -> Callable[[str], int]:
    wanted = f"a whole number from {low}" + (f" to {high}" if high is not None else " up")

    def read(value: str) -> int:
        if not (value.isascii() and value.isdigit() and len(value) <= _MAX_DIGITS):
            raise InvalidValue(wanted)
        number = int(value)
        if number < low or (high is not None and number > high):
            raise InvalidValue(wanted)
        return number

    return read


def _one_of(*numbers: int) -> Callable[[str], int]:
    def read(value: str) -> int:
        if value not in map(str, numbers):
            raise InvalidValue(" or ".join(map(str, numbers)))
        return int(value)

    return read


def _level(value: str) -> str:
    level = value.upper()
    if level not in (*_LEVELS, *OTHER_LEVELS):
        raise InvalidValue(f"one of {', '.join((*_LEVELS, *OTHER_LEVELS))}")
    return OTHER_LEVELS.get(level, level)


def _log_format(value: str) -> bool:
    if value.lower() not in ("pretty", "compact", "json"):
        raise InvalidValue("Pretty, compact or json")
    return value.lower() == "json"


def _address(value: str) -> tuple[str, int]:
    host, colon, port = value.rpartition(":")
    if not colon or not host:
        raise InvalidValue("host:port, such as 0.0.0.0:8000")
    return host.strip("[]"), _whole(1, _MAX_PORT)(port)


def _hosts(value: str) -> tuple[str, ...]:
    hosts = tuple(host.strip().lower() for host in value.split(",") if host.strip())
    if not hosts or any(set(host) & set("/:@*?") for host in hosts):
        raise InvalidValue("host names without port, separated by commas")
    return hosts


def _input_type(value: str) -> str:
    if value not in _INPUT_TYPES:
        raise InvalidValue(" or ".join(_INPUT_TYPES))
    return value


def _model_profile(value: str) -> str:
    if value.rsplit("/", 1)[-1] not in model_profile_names():
        raise InvalidValue(f"one of {', '.join(model_profile_names())}")
    return value


def _target(value: str) -> str:
    """What a NIM_MODEL_PROFILE asks for; NVIDIA's ids pin the format, not the hardware: ONNX."""
    if value in NVIDIA_ONNX_PROFILES:
        return ONNX
    if value == AUTO:
        return AUTO
    if value not in target_profile_names():
        raise InvalidValue(
            f"{AUTO}, one of {', '.join(target_profile_names())}, or one of NVIDIA's ONNX profile "
            f"ids {', '.join(NVIDIA_ONNX_PROFILES)}"
        )
    return value


def _honoured(
    name: str, field: str, read: Callable[[str], object], effect: str, default: str = ""
) -> Variable:
    return Variable(name, "honoured", effect, default, field, read)


def _tolerated(name: str, why: str) -> Variable:
    return Variable(name, "tolerated", why)


def _refused(name: str, why: str) -> Variable:
    return Variable(name, "refused", why)


def _triton(scheme: str) -> Callable[[str], str]:
    """An engine's name with its address, see `runtime.engines.open_engine`."""

    def read(value: str) -> str:
        found, separator, host = value.rpartition("://")
        known = (scheme, f"{scheme}s")
        if (separator and found not in known) or not host or set(host) & set("@?# "):
            raise InvalidValue(f"{scheme}://host:port or {scheme}s://host:port")
        return f"triton={found or scheme}://{host}"

    return read


_PORT = _whole(1, _MAX_PORT)
_PORT_OR_OFF = _whole(0, _MAX_PORT)
_POSITIVE = _whole(1)

_TRITONS_OWN = "a flag of the Triton that start.sh of the model repository starts"
_NO_DOWNLOAD = "nothing is downloaded at start"
_TRITONS_TRACES = "traces of a Triton inside a NIM; see NIM_ENABLE_OTEL"
_ARTIFACT_DECIDES = "the artifact decides"
_GRPC_PORT = "see NIM_TRITON_GRPC_PORT"
_ONE_PROCESS = "one process serves all requests and uses every core"
_BATCHING = "rows of waiting requests share engine calls by themselves"
_KEY = "a bearer that NIM_REQUIRE_AUTH accepts; otherwise unused"
_SEVERITY = (
    "least severe message logged: DEBUG, INFO, WARNING, ERROR or CRITICAL; DEFAULT, TRACE, WARN "
    "and FATAL mean INFO, DEBUG, WARNING and CRITICAL, with a warning in the log (FATAL "
    "hides it)"
)
_LOWER_TOKENS = (
    "lowers the token limit of one pair or text; above the artifact's limit the start fails"
)

OPTIONS: tuple[Variable, ...] = (
    _honoured("--rank", "rank_dir", Path, "reranker to serve"),
    _honoured("--embed", "embed_dir", Path, "embedder to serve, alone or beside a reranker"),
    _honoured("--host", "host", _text, "address to listen on"),
    _honoured("--port", "port", _PORT, "port to listen on"),
)

VARIABLES: tuple[Variable, ...] = (
    # What is served
    _honoured(
        "NIM_CUSTOM_MODEL",
        "custom_dir",
        Path,
        "directory to serve, reranker or embedder; replaces RERANK_MODEL_DIR and EMBED_MODEL_DIR",
    ),
    _honoured(
        "RERANK_MODEL_DIR",
        "custom_dir",
        Path,
        "directory to serve, reranker or embedder; with EMBED_MODEL_DIR, the reranker; images set "
        "/opt/model, which is ignored while it has no model",
    ),
    _honoured("EMBED_MODEL_DIR", "embed_dir", Path, "embedder to serve, alone or with a reranker"),
    _honoured(
        "RERANK_MODEL_PROFILE",
        "model_profile",
        _model_profile,
        "model profile of a directory without manifest.json",
        "inferred, and logged",
    ),
    _honoured(
        "NIM_MODEL_PROFILE",
        "target",
        _target,
        "the target that graph or plan must have been made for; `auto`: the plan if it fits, else "
        "TensorRT or CUDA in ONNX Runtime, else the CPU; NVIDIA's ids of ONNX profiles: the graph, "
        "never the plan",
        "the plan's target where there is one, else the graph's",
    ),
    _honoured(
        "NIM_CACHE_PATH",
        "cache_dir",
        Path,
        "directory for compiled engines and their timings, kept between starts; nothing is "
        "downloaded",
    ),
    _honoured(
        "RERANK_GPU_MEMORY_BYTES",
        "gpu_memory_bytes",
        _POSITIVE,
        "limit of GPU memory: of ONNX Runtime's arena (with weights), of the scratch memory of a "
        "kernel that TensorRT compiles in it, or of a plan's calls (without weights); a call that "
        "needs more is halved, then answered with 503",
        "no limit",
    ),
    _honoured(
        "NIM_TRT_ENGINE_HOST_CODE_ALLOWED",
        "host_code",
        _flag,
        "load plans that contain code for the CPU, as version-compatible plans do",
        "false",
    ),
    _honoured(
        "ENABLE_MOCK_INFERENCE",
        "mock",
        _flag,
        "deterministic scores without weights, for development",
        "false",
    ),
    _honoured(
        "NIM_SERVED_MODEL_NAME",
        "served_name",
        _text,
        "name in /v1/models and in requests, in addition to NVIDIA's names; the reranker's if an "
        "embedder is served too",
        "the artifact's model id",
    ),
    _honoured("NIM_SERVER_SERVED_MODEL_NAME", "served_name", _text, "as NIM_SERVED_MODEL_NAME"),
    _honoured(
        "EMBED_DEFAULT_INPUT_TYPE",
        "default_input_type",
        _input_type,
        "`query` or `passage`: the input type of texts to embed if a request does not name it (by "
        "`input_type`, the ending of the model's name, or TEI's `prompt_name`)",
        "400 if the model distinguishes them; over KServe `query`",
    ),
    _honoured(
        "MODEL_VERSION",
        "model_version",
        _text,
        "the part of shortName after the colon in /v1/metadata",
        "the artifact's version",
    ),
    # Limits
    _honoured(
        "NIM_TRITON_MAX_BATCH_SIZE",
        "max_rows",
        _POSITIVE,
        "rows of one engine call, at most the target's; also texts of one request unless "
        "RERANK_MAX_PASSAGES or EMBED_MAX_INPUTS is set",
        "64",
    ),
    _honoured("NIM_TRITON_MODEL_BATCH_SIZE", "max_rows", _POSITIVE, "as NIM_TRITON_MAX_BATCH_SIZE"),
    _honoured(
        "RERANK_MAX_PASSAGES",
        "max_passages",
        _POSITIVE,
        "passages of one request, split over engine calls",
        "min(64, NIM_TRITON_MAX_BATCH_SIZE)",
    ),
    _honoured(
        "EMBED_MAX_INPUTS",
        "embed_max_inputs",
        _POSITIVE,
        "texts of one embedding request, split over engine calls",
        "NIM_TRITON_MAX_BATCH_SIZE, else 30",
    ),
    _honoured("MAX_SEQUENCE_LENGTH", "max_tokens", _POSITIVE, _LOWER_TOKENS, "the artifact's"),
    _honoured("NIM_TRITON_MAX_SEQ_LENGTH", "max_tokens", _POSITIVE, "as MAX_SEQUENCE_LENGTH"),
    _honoured(
        "NIM_HTTP_BODY_LIMIT_BYTES",
        "body_limit_bytes",
        _POSITIVE,
        "bytes of one request body, before and after inflating; above: 413",
        "67108864",
    ),
    _honoured(
        "NIM_REQUEST_TIMEOUT_S",
        "request_timeout_s",
        _POSITIVE,
        "seconds from a request's arrival to its answer; after that: 504",
        "120",
    ),
    _honoured(
        "NIM_SERVER_REQUEST_TIMEOUT_S", "request_timeout_s", _POSITIVE, "as NIM_REQUEST_TIMEOUT_S"
    ),
    _honoured(
        "NIM_MAX_QUEUE_SIZE",
        "queue_rows",
        _POSITIVE,
        "passages that may wait for the engine; above: RERANK_OVERLOAD_STATUS",
        "8192",
    ),
    _honoured(
        "NIM_TRITON_DYNAMIC_BATCHING_MAX_QUEUE_DELAY_MICROSECONDS",
        "batch_window_us",
        _whole(0, _LONGEST_WINDOW_US),
        "how long a passage waits for others while the engine is idle; rows of waiting requests "
        "share engine calls in any case",
        "0",
    ),
    _honoured("NIM_SERVER_MAX_QUEUE_SIZE", "queue_rows", _POSITIVE, "as NIM_MAX_QUEUE_SIZE"),
    _honoured(
        "RERANK_MAX_QUEUE_TOKENS",
        "queue_tokens",
        _POSITIVE,
        "tokens that may wait for the engine; above: RERANK_OVERLOAD_STATUS",
        "4194304",
    ),
    _honoured(
        "RERANK_ENGINE_PATIENCE_S",
        "engine_patience_s",
        _POSITIVE,
        "seconds of one engine call after which the engine counts as hung and live fails",
        "twice NIM_REQUEST_TIMEOUT_S",
    ),
    _honoured(
        "RERANK_HEADER_TIMEOUT_S",
        "header_timeout_s",
        _POSITIVE,
        "seconds in which the head of a request must arrive; after that: 408 (rerank-serve)",
        "20",
    ),
    _honoured(
        "RERANK_DRAIN_TIMEOUT_S",
        "drain_timeout_s",
        _POSITIVE,
        "seconds after SIGTERM in which running requests are answered; the others get 503",
        "25",
    ),
    _honoured(
        "RERANK_OVERLOAD_STATUS",
        "overload_status",
        _one_of(503, 429),
        "status when the queue is full: 503 or 429",
        "503",
    ),
    _honoured(
        "RERANK_TOO_LONG_STATUS",
        "too_long_status",
        _one_of(422, 400),
        "status when a text is too long: 422 (NIM ≥ 1.9.1) or 400 (older; Elasticsearch)",
        "422",
    ),
    # Listening
    _honoured("NIM_HTTP_API_PORT", "port", _PORT, "port of the API (rerank-serve)", "8000"),
    _honoured("NIM_SERVER_PORT", "port", _PORT, "as NIM_HTTP_API_PORT"),
    _honoured(
        "NIM_BIND_ADDR",
        "bind",
        _address,
        "host:port to listen on (rerank-serve); NIM_HTTP_API_PORT replaces its port, all other "
        "ports are at the same host: 0.0.0.0 is all of IPv4, [::] all of IPv4 and IPv6",
        "0.0.0.0:8000",
    ),
    _honoured("NIM_SERVER_BIND_ADDR", "bind", _address, "as NIM_BIND_ADDR"),
    _honoured(
        "NIM_TRITON_METRICS_PORT",
        "metrics_port",
        _PORT_OR_OFF,
        "second port with /metrics; 0 = off",
        "8002",
    ),
    _honoured(
        "NIM_TRITON_GRPC_PORT",
        "grpc_port",
        _PORT_OR_OFF,
        "port of the KServe v2 gRPC service; 0 = off",
        "8001",
    ),
    _honoured("NIM_GRPC_API_PORT", "grpc_port", _PORT_OR_OFF, "as NIM_TRITON_GRPC_PORT"),
    _honoured(
        "NIM_HTTP_TRITON_PORT",
        "triton_port",
        _PORT_OR_OFF,
        "second port with the KServe v2 routes, in addition to the API port; 0 = off",
        "0",
    ),
    _honoured(
        "RERANK_UI", "ui", _flag, "the test page at / and the documentation at /docs", "true"
    ),
    # A Triton that computes
    _honoured(
        "TRITON_GRPC_ENDPOINT",
        "triton_engine",
        _triton("grpc"),
        "host:port of a Triton that computes the reranker (`rerank-export triton` writes its "
        "repository); grpcs://host:port over TLS",
        "the engine runs in the server's process",
    ),
    _honoured(
        "TRITON_HTTP_ENDPOINT",
        "triton_engine",
        _triton("http"),
        "the same over HTTP, as http://host:port",
    ),
    # Access
    _honoured(
        "NIM_REQUIRE_AUTH",
        "require_auth",
        _flag,
        "require a bearer on every route but health",
        "false",
    ),
    _honoured("NGC_API_KEY", "ngc_key", _text, _KEY),
    _honoured("NVIDIA_API_KEY", "nvidia_key", _text, _KEY),
    _honoured("NIM_NGC_API_KEY", "nim_key", _text, _KEY),
    _honoured(
        "NIM_TLS_CERT_PATH",
        "tls_cert",
        Path,
        "certificate chain in PEM; with NIM_TLS_KEY_PATH all ports speak TLS (rerank-serve)",
    ),
    _honoured("NIM_TLS_KEY_PATH", "tls_key", Path, "private key in PEM of NIM_TLS_CERT_PATH"),
    _honoured(
        "RERANK_ALLOWED_HOSTS",
        "allowed_hosts",
        _hosts,
        "names that requests may have in Host, separated by commas; others get 400, except health",
        "any",
    ),
    _honoured(
        "RERANK_MODEL_CONTROL",
        "model_control",
        _flag,
        "let requests reload models: POST /v2/repository/models/{m}/load",
        "NIM_REQUIRE_AUTH",
    ),
    # Logging
    _honoured("NIM_LOG_LEVEL", "log_level", _level, _SEVERITY, "INFO"),
    _honoured("LOG_LEVEL", "log_level", _level, "as NIM_LOG_LEVEL"),
    _honoured("NIM_JSONL_LOGGING", "json_logs", _flag, "one JSON object a line", "false"),
    _honoured("NIM_LOGGING_JSONL", "json_logs", _flag, "as NIM_JSONL_LOGGING"),
    _honoured("LOG_FORMAT", "json_logs", _log_format, "json as NIM_JSONL_LOGGING=1, else text"),
    # Tracing
    _honoured(
        "NIM_ENABLE_OTEL",
        "tracing",
        _flag,
        "send a trace of every request that computes (HTTP except GET, HEAD and OPTIONS; "
        "ModelInfer of gRPC), by OTLP over HTTP",
        "false",
    ),
    Variable("NIM_OTEL_*", "honoured", "as OTEL_*: NIM_OTEL_EXPORTER_OTLP_ENDPOINT and the like"),
    Variable(
        "OTEL_*",
        "honoured",
        "OpenTelemetry's own variables of traces, such as OTEL_EXPORTER_OTLP_ENDPOINT and "
        "OTEL_SERVICE_NAME; OTEL_TRACES_EXPORTER: otlp, console or none; metrics stay Prometheus'",
        "OpenTelemetry's",
    ),
    # Would promise something that is not kept
    _refused(
        "NIM_MODEL_PATH",
        "a checkpoint cannot be served; run rerank-export on it and set NIM_CUSTOM_MODEL",
    ),
    _refused(
        "NIM_ENGINE_MODEL_PATH",
        "a checkpoint cannot be served; run rerank-export on it and set NIM_CUSTOM_MODEL",
    ),
    _refused("NIM_ENGINE_MODEL_DOWNLOAD_ONLY", f"{_NO_DOWNLOAD}, so there is no such job to do"),
    # Harmless
    _tolerated("NIM_IGNORE_MODEL_DOWNLOAD_FAIL", _NO_DOWNLOAD),
    _tolerated("NIM_MANIFEST_ALLOW_UNSAFE", _NO_DOWNLOAD),
    _tolerated("NIM_REPOSITORY_OVERRIDE", _NO_DOWNLOAD),
    _tolerated("NIM_MODEL_DOWNLOAD_PROVIDER", _NO_DOWNLOAD),
    _tolerated("NIM_ENGINE_MODEL_NAME", _NO_DOWNLOAD),
    _tolerated("HF_TOKEN", _NO_DOWNLOAD),
    _tolerated("OUTLINES_CACHE_DIR", "a cache of the language-model NIM; set by the operator"),
    _tolerated("NIM_CPU_ONLY", f"{_ARTIFACT_DECIDES} where it runs; see NIM_MODEL_PROFILE"),
    _tolerated("NIM_PRECISION", f"{_ARTIFACT_DECIDES}; see /v1/metadata"),
    _tolerated("NIM_HTTP_MAX_WORKERS", _ONE_PROCESS),
    _tolerated("NIM_NUM_TOKENIZERS", _ONE_PROCESS),
    _tolerated("NIM_NUM_MODEL_INSTANCES", _ONE_PROCESS),
    _tolerated("NIM_ENGINE_COUNT", _ONE_PROCESS),
    _tolerated("OMP_NUM_THREADS", "the engine uses threads of its own, one per core"),
    _tolerated("NIM_TRITON_PERFORMANCE_MODE", _BATCHING),
    _tolerated("NIM_MAX_WAIT_MS", _BATCHING),
    _tolerated("NIM_PIPELINE_MAX_BATCH_SIZE", f"{_BATCHING}; see NIM_TRITON_MAX_BATCH_SIZE"),
    _tolerated("NIM_ADMISSION_SIZE", "see NIM_MAX_QUEUE_SIZE"),
    _tolerated("TRITON_METRICS_PORT", _TRITONS_OWN),
    _tolerated("NIM_TRITON_LOG_VERBOSE", _TRITONS_OWN),
    _tolerated("NIM_TRITON_RATE_LIMIT", _TRITONS_OWN),
    _tolerated("NIM_GRPC_BIND_ADDR", _GRPC_PORT),
    _tolerated("NIM_SERVER_GRPC_BIND_ADDR", _GRPC_PORT),
    _tolerated("TRITON_OTEL_URL", _TRITONS_TRACES),
    _tolerated("TRITON_OTEL_RATE", _TRITONS_TRACES),
    _tolerated("RUST_LOG", "see NIM_LOG_LEVEL"),
    _tolerated("SHOW_CONFIG", "/v1/metadata shows what is served"),
)
