"""The one table of environment variables: every name a NIM user may set, and what it does here.

Options of the command line are rows as well: they are synonyms that go first.

The names are those of NVIDIA's documentation for the 1.x and 2.x retrieval NIMs, of the images,
compose files and Kubernetes operator that set them, and our own (RERANK_*).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from runtime.postprocess import InputType
from runtime.profile import model_profile_names, target_profile_names
from runtime.selection import AUTO, ONNX
from server.values import (
    FLAG,
    MOST_PORT,
    OFF,
    InvalidValue,
    Reader,
    address,
    hosts,
    one_of,
    triton,
    whole,
)

Fate = Literal["honoured", "tolerated", "refused"]

# ONNX fp16 for rerank 1.5 … 1.10 and for embedding 1.13; many published run scripts pin them.
NVIDIA_ONNX_PROFILES = (
    "f7391ddbcb95b2406853526b8e489fedf20083a2420563ca3e65358ff417b10f",
    "e28f17c9c13a99055d065f88d725bf93c23b3aab14acd68f16323de1353fc528",
)

# The target of a reranker that a Triton computes, whatever its artifact was exported for.
TRITON = "triton"
_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
# Other NIMs' words, other loggers' spellings, and the level that each stands for here.
OTHER_LEVELS = {"DEFAULT": "INFO", "TRACE": "DEBUG", "WARN": "WARNING", "FATAL": "CRITICAL"}
_LONGEST_WINDOW_US = 1_000_000
_INPUT_TYPES: tuple[InputType, ...] = get_args(InputType)


@dataclass(frozen=True)
class Variable:
    """One row: `field` of Settings is set when it is honoured, but for keys and names that end in
    "*" (settings.py gathers those). Without `read`, the field's type says how values are read
    (`BY_TYPE`); without `default`, Settings has it.

    Rows with the same `field` are synonyms; the first one that is set counts. A name ending in
    "*" stands for every variable with that beginning.
    """

    name: str
    fate: Fate
    effect: str
    default: str = ""
    field: str | None = None
    read: Reader | None = None

    def matches(self, name: str) -> bool:
        """Whether this row speaks about the variable called `name`."""
        if self.name.endswith("*"):
            return name.startswith(self.name[:-1])
        return name == self.name


def asks_for_nothing(value: str) -> bool:
    """A refused variable that is switched off does no harm."""
    return value.lower() in OFF


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
    name: str, field: str, effect: str, default: str = "", read: Reader | None = None
) -> Variable:
    return Variable(name, "honoured", effect, default, field, read)


def _tolerated(why: str, *names: str) -> Iterator[Variable]:
    return (Variable(name, "tolerated", why) for name in names)


def _refused(why: str, *names: str) -> Iterator[Variable]:
    return (Variable(name, "refused", why) for name in names)


_PORT_OR_OFF = whole(0, MOST_PORT)
_PORT = whole(1, MOST_PORT)
_LEVEL = one_of({**{level: level for level in _LEVELS}, **OTHER_LEVELS}, fold=str.upper)
_LOG_FORMAT = one_of(
    {"pretty": False, "compact": False, "json": True}, "Pretty, compact or json", str.lower
)
# How a value of a field of this type is read, unless its row says otherwise.
BY_TYPE: Mapping[object, Reader] = {bool: FLAG, int: whole(1), str: str, Path: Path}

_NO_DOWNLOAD = "nothing is downloaded at start"
_BATCHING = "rows of waiting requests share engine calls by themselves"
KEYS = ("NGC_API_KEY", "NVIDIA_API_KEY", "NIM_NGC_API_KEY")
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
    _honoured("--rank", "rank_dir", "reranker to serve"),
    _honoured("--embed", "embed_dir", "embedder to serve, alone or beside a reranker"),
    _honoured("--host", "host", "address to listen on"),
    _honoured("--port", "port", "port to listen on", read=_PORT),
)

VARIABLES: tuple[Variable, ...] = (
    # What is served
    _honoured(
        "NIM_CUSTOM_MODEL",
        "custom_dir",
        "directory to serve, reranker or embedder; replaces RERANK_MODEL_DIR and EMBED_MODEL_DIR",
    ),
    _honoured(
        "RERANK_MODEL_DIR",
        "custom_dir",
        "directory to serve, reranker or embedder; with EMBED_MODEL_DIR, the reranker; images set "
        "/opt/model, which is ignored while it has no model",
    ),
    _honoured("EMBED_MODEL_DIR", "embed_dir", "embedder to serve, alone or with a reranker"),
    _honoured(
        "RERANK_MODEL_PROFILE",
        "model_profile",
        "model profile of a directory without manifest.json",
        "inferred, and logged",
        read=_model_profile,
    ),
    _honoured(
        "NIM_MODEL_PROFILE",
        "target",
        "the target that graph or plan must have been made for; `auto`: the plan if it fits, else "
        "ONNX Runtime on the GPU, else the CPU; NVIDIA's ids of ONNX profiles: the graph, never "
        "the plan",
        "the plan's target where there is one, else the graph's",
        read=_target,
    ),
    _honoured(
        "NIM_CACHE_PATH",
        "cache_dir",
        "directory for compiled engines and their timings, kept between starts; nothing is "
        "downloaded",
    ),
    _honoured(
        "RERANK_GPU_MEMORY_BYTES",
        "gpu_memory_bytes",
        "limit of GPU memory: of ONNX Runtime's arena (with weights), of the scratch memory of a "
        "kernel that TensorRT compiles in it, or of a plan's calls (without weights); a call that "
        "needs more is halved, then answered with 503",
        "no limit",
    ),
    _honoured(
        "NIM_TRT_ENGINE_HOST_CODE_ALLOWED",
        "host_code",
        "load plans that contain code for the CPU, as version-compatible plans do",
    ),
    _honoured(
        "ENABLE_MOCK_INFERENCE", "mock", "deterministic scores without weights, for development"
    ),
    _honoured(
        "NIM_SERVED_MODEL_NAME",
        "served_name",
        "name in /v1/models and in requests, in addition to NVIDIA's names; the reranker's if an "
        "embedder is served too",
        "the artifact's model id",
    ),
    _honoured("NIM_SERVER_SERVED_MODEL_NAME", "served_name", "as NIM_SERVED_MODEL_NAME"),
    _honoured(
        "EMBED_DEFAULT_INPUT_TYPE",
        "default_input_type",
        "`query` or `passage`: the input type of texts to embed if a request does not name it (by "
        "`input_type`, the ending of the model's name, or TEI's `prompt_name`)",
        "400 if the model distinguishes them; over KServe `query`",
        read=one_of({name: name for name in _INPUT_TYPES}, " or ".join(_INPUT_TYPES)),
    ),
    _honoured(
        "MODEL_VERSION",
        "model_version",
        "the part of shortName after the colon in /v1/metadata",
        "the artifact's version",
    ),
    # Limits
    _honoured(
        "NIM_TRITON_MAX_BATCH_SIZE",
        "max_rows",
        "rows of one engine call, at most the target's; also texts of one request unless "
        "RERANK_MAX_PASSAGES or EMBED_MAX_INPUTS is set",
        "64",
    ),
    _honoured("NIM_TRITON_MODEL_BATCH_SIZE", "max_rows", "as NIM_TRITON_MAX_BATCH_SIZE"),
    _honoured(
        "RERANK_MAX_PASSAGES",
        "max_passages",
        "passages of one request, split over engine calls",
        "min(64, NIM_TRITON_MAX_BATCH_SIZE)",
    ),
    _honoured(
        "EMBED_MAX_INPUTS",
        "embed_max_inputs",
        "texts of one embedding request, split over engine calls",
        "NIM_TRITON_MAX_BATCH_SIZE, else 30",
    ),
    _honoured("MAX_SEQUENCE_LENGTH", "max_tokens", _LOWER_TOKENS, "the artifact's"),
    _honoured("NIM_TRITON_MAX_SEQ_LENGTH", "max_tokens", "as MAX_SEQUENCE_LENGTH"),
    _honoured(
        "NIM_HTTP_BODY_LIMIT_BYTES",
        "body_limit_bytes",
        "bytes of one request body, before and after inflating; above: 413",
    ),
    _honoured(
        "NIM_SERVER_HTTP_BODY_LIMIT_BYTES", "body_limit_bytes", "as NIM_HTTP_BODY_LIMIT_BYTES"
    ),
    _honoured("NIM_MAX_IMAGE_BYTES", "image_bytes", "bytes of one image's file; above: 400"),
    _honoured("NIM_SERVER_MAX_IMAGE_BYTES", "image_bytes", "as NIM_MAX_IMAGE_BYTES"),
    _honoured("RERANK_IMAGE_MAX_PIXELS", "image_pixels", "pixels of one image; above: 400"),
    _honoured(
        "RERANK_IMAGE_MAX_TILES",
        "image_tiles",
        "tiles of all images of one request; above: 400. Requests that are not answered yet have "
        "twice as many at most; above: RERANK_OVERLOAD_STATUS",
    ),
    _honoured(
        "RERANK_IMAGE_CACHE_BYTES",
        "image_cache_bytes",
        "bytes of image embeddings that each model keeps for later requests; 0 = none",
        read=whole(0),
    ),
    _honoured(
        "NIM_REQUEST_TIMEOUT_S",
        "request_timeout_s",
        "seconds from a request's arrival to its answer; after that: 504",
    ),
    _honoured("NIM_SERVER_REQUEST_TIMEOUT_S", "request_timeout_s", "as NIM_REQUEST_TIMEOUT_S"),
    _honoured(
        "NIM_MAX_QUEUE_SIZE",
        "queue_rows",
        "passages that may wait for the engine; above: RERANK_OVERLOAD_STATUS",
    ),
    _honoured(
        "NIM_TRITON_DYNAMIC_BATCHING_MAX_QUEUE_DELAY_MICROSECONDS",
        "batch_window_us",
        "how long a passage waits for others while the engine is idle; rows of waiting requests "
        "share engine calls in any case",
        read=whole(0, _LONGEST_WINDOW_US),
    ),
    _honoured("NIM_SERVER_MAX_QUEUE_SIZE", "queue_rows", "as NIM_MAX_QUEUE_SIZE"),
    _honoured(
        "RERANK_MAX_QUEUE_TOKENS",
        "queue_tokens",
        "tokens that may wait for the engine; above: RERANK_OVERLOAD_STATUS",
    ),
    _honoured(
        "RERANK_ENGINE_PATIENCE_S",
        "engine_patience_s",
        "seconds of one engine call after which the engine counts as hung and live fails",
        "twice NIM_REQUEST_TIMEOUT_S",
    ),
    _honoured(
        "RERANK_HEADER_TIMEOUT_S",
        "header_timeout_s",
        "seconds in which the head of a request must arrive; after that: 408 (rerank-serve)",
    ),
    _honoured(
        "RERANK_DRAIN_TIMEOUT_S",
        "drain_timeout_s",
        "seconds after SIGTERM in which running requests are answered; the others get 503",
    ),
    _honoured(
        "RERANK_OVERLOAD_STATUS",
        "overload_status",
        "status when the queue is full: 503 or 429",
        read=one_of({"503": 503, "429": 429}, "503 or 429"),
    ),
    _honoured(
        "RERANK_PLAIN_SPECIAL_TOKENS",
        "plain_special_tokens",
        "true: special tokens in a query or passage stay text; otherwise they are read as the "
        "model's own loader reads them, and a passage can steer a model that reads a prompt",
        "false",
        read=FLAG,
    ),
    _honoured(
        "RERANK_TOO_LONG_STATUS",
        "too_long_status",
        "status when a text is too long: 422 (NIM ≥ 1.9.1) or 400 (older; Elasticsearch)",
        read=one_of({"422": 422, "400": 400}, "422 or 400"),
    ),
    # Listening
    _honoured("NIM_HTTP_API_PORT", "port", "port of the API (rerank-serve)", read=_PORT),
    _honoured("NIM_SERVER_PORT", "port", "as NIM_HTTP_API_PORT", read=_PORT),
    _honoured(
        "NIM_BIND_ADDR",
        "bind",
        "host:port to listen on (rerank-serve); NIM_HTTP_API_PORT replaces its port, all other "
        "ports are at the same host: 0.0.0.0 is all of IPv4, [::] all of IPv4 and IPv6",
        "0.0.0.0:8000",
        read=address,
    ),
    _honoured("NIM_SERVER_BIND_ADDR", "bind", "as NIM_BIND_ADDR", read=address),
    _honoured(
        "NIM_TRITON_METRICS_PORT",
        "metrics_port",
        "second port with /metrics; 0 = off",
        read=_PORT_OR_OFF,
    ),
    _honoured(
        "NIM_TRITON_GRPC_PORT",
        "grpc_port",
        "port of the KServe v2 gRPC service; 0 = off",
        read=_PORT_OR_OFF,
    ),
    _honoured("NIM_GRPC_API_PORT", "grpc_port", "as NIM_TRITON_GRPC_PORT", read=_PORT_OR_OFF),
    _honoured(
        "NIM_HTTP_TRITON_PORT",
        "triton_port",
        "second port with the KServe v2 routes, in addition to the API port; 0 = off",
        read=_PORT_OR_OFF,
    ),
    _honoured("RERANK_UI", "ui", "the test page at / and the documentation at /docs"),
    # A Triton that computes
    _honoured(
        "TRITON_GRPC_ENDPOINT",
        "triton_engine",
        "host:port of a Triton that computes the reranker (`rerank-export triton` writes its "
        "repository); grpcs://host:port over TLS",
        "the engine runs in the server's process",
        read=triton("grpc"),
    ),
    _honoured(
        "TRITON_HTTP_ENDPOINT",
        "triton_engine",
        "the same over HTTP, as http://host:port",
        read=triton("http"),
    ),
    # Access
    _honoured(
        "NIM_REQUIRE_AUTH",
        "require_auth",
        "require a bearer on every route but health",
        "false",
        read=FLAG,
    ),
    *(Variable(name, "honoured", _KEY) for name in KEYS),
    _honoured(
        "NIM_TLS_CERT_PATH",
        "tls_cert",
        "certificate chain in PEM; with NIM_TLS_KEY_PATH all ports speak TLS (rerank-serve)",
    ),
    _honoured("NIM_TLS_KEY_PATH", "tls_key", "private key in PEM of NIM_TLS_CERT_PATH"),
    _honoured(
        "RERANK_ALLOWED_HOSTS",
        "allowed_hosts",
        "names that requests may have in Host, separated by commas; others get 400, except health",
        "any",
        read=hosts,
    ),
    _honoured(
        "RERANK_MODEL_CONTROL",
        "model_control",
        "let requests reload models: POST /v2/repository/models/{m}/load",
        "NIM_REQUIRE_AUTH",
    ),
    # Logging
    _honoured("NIM_LOG_LEVEL", "log_level", _SEVERITY, read=_LEVEL),
    _honoured("LOG_LEVEL", "log_level", "as NIM_LOG_LEVEL", read=_LEVEL),
    _honoured("NIM_JSONL_LOGGING", "json_logs", "one JSON object a line"),
    _honoured("NIM_LOGGING_JSONL", "json_logs", "as NIM_JSONL_LOGGING"),
    _honoured(
        "LOG_FORMAT", "json_logs", "json as NIM_JSONL_LOGGING=1, else text", read=_LOG_FORMAT
    ),
    # Tracing
    _honoured(
        "NIM_ENABLE_OTEL",
        "tracing",
        "send a trace of every request that computes (HTTP except GET, HEAD and OPTIONS; "
        "ModelInfer of gRPC), by OTLP over HTTP",
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
    *_refused(
        "a checkpoint cannot be served; run rerank-export on it and set NIM_CUSTOM_MODEL",
        *("NIM_MODEL_PATH", "NIM_ENGINE_MODEL_PATH"),
    ),
    *_refused(f"{_NO_DOWNLOAD}, so there is no such job to do", "NIM_ENGINE_MODEL_DOWNLOAD_ONLY"),
    # Harmless
    *_tolerated(
        _NO_DOWNLOAD,
        *("NIM_IGNORE_MODEL_DOWNLOAD_FAIL", "NIM_MANIFEST_ALLOW_UNSAFE", "NIM_REPOSITORY_OVERRIDE"),
        *("NIM_MODEL_DOWNLOAD_PROVIDER", "NIM_ENGINE_MODEL_NAME", "HF_TOKEN"),
    ),
    *_tolerated("a cache of the language-model NIM; set by the operator", "OUTLINES_CACHE_DIR"),
    *_tolerated("the artifact decides where it runs; see NIM_MODEL_PROFILE", "NIM_CPU_ONLY"),
    *_tolerated("the artifact decides; see /v1/metadata", "NIM_PRECISION"),
    *_tolerated(
        "one process serves all requests and uses every core",
        *("NIM_HTTP_MAX_WORKERS", "NIM_NUM_TOKENIZERS"),
        *("NIM_NUM_MODEL_INSTANCES", "NIM_ENGINE_COUNT"),
    ),
    *_tolerated("the engine uses threads of its own, one per core", "OMP_NUM_THREADS"),
    *_tolerated(_BATCHING, "NIM_TRITON_PERFORMANCE_MODE", "NIM_MAX_WAIT_MS"),
    *_tolerated(f"{_BATCHING}; see NIM_TRITON_MAX_BATCH_SIZE", "NIM_PIPELINE_MAX_BATCH_SIZE"),
    *_tolerated("see NIM_MAX_QUEUE_SIZE", "NIM_ADMISSION_SIZE"),
    *_tolerated(
        "a flag of the Triton that start.sh of the model repository starts",
        *("TRITON_METRICS_PORT", "NIM_TRITON_LOG_VERBOSE", "NIM_TRITON_RATE_LIMIT"),
    ),
    *_tolerated("see NIM_TRITON_GRPC_PORT", "NIM_GRPC_BIND_ADDR", "NIM_SERVER_GRPC_BIND_ADDR"),
    *_tolerated(
        "traces of a Triton inside a NIM; see NIM_ENABLE_OTEL",
        *("TRITON_OTEL_URL", "TRITON_OTEL_RATE"),
    ),
    *_tolerated("see NIM_LOG_LEVEL", "RUST_LOG"),
    *_tolerated("/v1/metadata shows what is served", "SHOW_CONFIG"),
)
