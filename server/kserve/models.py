"""The served models as a Triton repository: names, tensors, configuration, statistics.

Tensor names are those of NVIDIA's retrieval NIMs.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from runtime.profile import Kind
from server.call import Limit, limit_of
from server.errors import UnknownModel
from server.names import TRITON_VERSION, triton_name
from server.served import Served
from server.service import Service
from server.settings import MAX_BATCH_SIZES

SERVER_NAME = "open-rerank"
EXTENSIONS = ("binary_tensor_data", "model_configuration", "model_repository", "statistics")
PLATFORM = "open_rerank"
# Ways to request the only version; -1 is Triton's latest.
_VERSIONS = (None, "", "-1", TRITON_VERSION)


@dataclass(frozen=True)
class TensorFacts:
    """An input or output: its KServe datatype and its shape, -1 for variable sizes."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    @property
    def config_type(self) -> str:
        """The datatype as a Triton configuration spells it."""
        return "TYPE_STRING" if self.datatype == "BYTES" else f"TYPE_{self.datatype}"

    @property
    def dims(self) -> tuple[int, ...]:
        """The shape without the batch."""
        return self.shape[1:]


@dataclass(frozen=True)
class Duration:
    """A count, and the total in nanoseconds."""

    count: int
    ns: int


@dataclass(frozen=True)
class KserveModel:
    """A served model under its Triton name. `limit` bounds the rows of a request.

    `max_batch_size` is in its configuration: the rows that a client puts into one request.
    """

    name: str
    kind: Kind
    inputs: tuple[TensorFacts, ...]
    outputs: tuple[TensorFacts, ...]
    limit: Limit
    max_batch_size: int
    served: Served

    def statistics(self) -> "Statistics":
        """The current counters."""
        return _statistics(self.served)


@dataclass(frozen=True)
class Statistics:
    """Triton's figures of one model: `inference_count` rows in `execution_count` engine calls;
    `stages` by Triton's names. `last_inference_ms` since 1970, 0 before the first."""

    last_inference_ms: int
    inference_count: int
    execution_count: int
    stages: dict[str, Duration]


def all_models(service: Service) -> list[KserveModel]:
    """Every served model, the reranker first. Raises NotReady."""
    return [_model(service, served) for served in service.all_served]


def find(service: Service, name: str, version: str | None) -> KserveModel:
    """The model of that name. Raises NotReady or UnknownModel."""
    models = all_models(service)
    for model in models:
        if name == model.name or _is_one_of(model.served.accepted_names, name):
            if version in _VERSIONS:
                return model
            raise UnknownModel(f"version {TRITON_VERSION} or none")
    raise UnknownModel(" or ".join(model.name for model in models))


def _is_one_of(accepted: Iterable[str], name: str) -> bool:
    # `triton_name` keeps the length, so a name of megabytes is never converted.
    return any(len(name) == len(one) and triton_name(name) == triton_name(one) for one in accepted)


def _model(service: Service, served: Served) -> KserveModel:
    info = served.model.info
    inputs: tuple[TensorFacts, ...]
    outputs: tuple[TensorFacts, ...]
    if info.kind == "rank":
        inputs = (TensorFacts("query", "BYTES", (-1, 1)), TensorFacts("passage", "BYTES", (-1, 1)))
        outputs = (
            TensorFacts("index", "INT32", (-1, 1)),
            TensorFacts("logit", "FP32", (-1, 1)),
            TensorFacts("token_count", "INT32", (-1,)),
        )
    else:
        inputs = (TensorFacts("text", "BYTES", (-1, 1)),)
        outputs = (
            TensorFacts("token_count", "INT32", (-1,)),
            TensorFacts("embeddings", "FP32", (-1, info.dimensions or -1)),
        )
    settings = service.settings
    limit = limit_of(settings, info.kind)
    # Smaller than the limit: nv-ingest fills every request up to this number, and rows of several
    # requests share engine calls anyway.
    rows = min(limit.texts, settings.max_rows or MAX_BATCH_SIZES[info.kind])
    return KserveModel(triton_name(served.name), info.kind, inputs, outputs, limit, rows, served)


def _statistics(served: Served) -> Statistics:
    stats, tally = served.stats(), served.tally

    def spent(count: int, seconds: float) -> Duration:
        return Duration(count, int(seconds * 1e9))

    stages = {
        "success": spent(tally.answered, tally.answered_s),
        "fail": spent(tally.failed, tally.failed_s),
        "queue": spent(tally.answered, tally.queue_s),
        "compute_input": spent(tally.answered, tally.tokenize_s),
        "compute_infer": spent(tally.answered, tally.engine_s),
        # Writing the answer is not measured, hence 0.
        "compute_output": Duration(tally.answered, 0),
        "cache_hit": Duration(0, 0),
        "cache_miss": Duration(0, 0),
    }
    last_ms = int(tally.last_at * 1e3)
    return Statistics(last_ms, stats.inference_count, stats.execution_count, stages)
