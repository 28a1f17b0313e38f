"""The served models as a Triton repository: names, tensors, configuration, statistics.

Tensor names are those of NVIDIA's retrieval NIMs.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from runtime.profile import Kind
from server.call import Limit, limit_of
from server.errors import UnknownModel
from server.names import TRITON_VERSION, triton_name
from server.served import Served
from server.service import Service
from server.settings import MAX_BATCH_SIZES

# Data URLs or base64 of the passages' images, where the model takes them; "" for a passage without.
IMAGE_INPUT = "passage_image"
SERVER_NAME = "open-rerank"
EXTENSIONS = ("binary_tensor_data", "model_configuration", "model_repository", "statistics")
PLATFORM = "open_rerank"
# Ways to request the only version; -1 is Triton's latest.
_VERSIONS = (None, "", "-1", TRITON_VERSION)


class TensorReply(msgspec.Struct):
    """A tensor; -1 stands for variable sizes."""

    name: str
    datatype: str
    shape: list[int]


class ModelReply(msgspec.Struct):
    """A model's metadata."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorReply]
    outputs: list[TensorReply]


class ConfigTensor(msgspec.Struct):
    """A tensor in Triton's configuration, without the batch; `optional` is an input's."""

    name: str
    data_type: str
    dims: list[int]
    optional: bool | UnsetType = UNSET


class ConfigReply(msgspec.Struct):
    """A model's configuration in Triton's shape."""

    name: str
    platform: str
    backend: str
    max_batch_size: int
    input: list[ConfigTensor]
    output: list[ConfigTensor]
    dynamic_batching: dict[str, Any]


class StatisticDuration(msgspec.Struct):
    """A count, and the total in nanoseconds."""

    count: int
    ns: int


class ModelStatistics(msgspec.Struct):
    """A model's counters: inference_count rows in execution_count engine calls."""

    name: str
    version: str
    last_inference: int
    inference_count: int
    execution_count: int
    inference_stats: dict[str, StatisticDuration]
    batch_stats: list[dict[str, Any]]
    memory_usage: list[dict[str, Any]]


@dataclass(frozen=True)
class KserveModel:
    """A served model under its Triton name. `limit` bounds the rows of a request.

    `max_batch_size` is in its configuration: the rows that a client puts into one request.
    """

    name: str
    kind: Kind
    inputs: list[TensorReply]
    outputs: list[TensorReply]
    limit: Limit
    max_batch_size: int
    served: Served

    def metadata(self) -> ModelReply:
        """Its inputs and outputs."""
        return ModelReply(self.name, [TRITON_VERSION], PLATFORM, self.inputs, self.outputs)

    def config(self) -> ConfigReply:
        """Its configuration."""
        return ConfigReply(
            name=self.name,
            platform=PLATFORM,
            backend=PLATFORM,
            max_batch_size=self.max_batch_size,
            input=[_config_tensor(tensor) for tensor in self.inputs],
            output=[_config_tensor(tensor) for tensor in self.outputs],
            dynamic_batching={},
        )

    def statistics(self) -> ModelStatistics:
        """Its counters since it was loaded."""
        stats, tally = self.served.stats(), self.served.tally
        answered = tally.answered
        stages = {
            "success": (answered, tally.answered_s),
            "fail": (tally.failed, tally.failed_s),
            "queue": (answered, tally.queue_s),
            "compute_input": (answered, tally.tokenize_s),
            "compute_infer": (answered, tally.engine_s),
            "compute_output": (answered, 0),  # writing the answer is not measured
            "cache_hit": (0, 0),
            "cache_miss": (0, 0),
        }
        return ModelStatistics(
            name=self.name,
            version=TRITON_VERSION,
            last_inference=int(tally.last_at * 1e3),
            inference_count=stats.inference_count,
            execution_count=stats.execution_count,
            inference_stats={
                name: StatisticDuration(count, int(seconds * 1e9))
                for name, (count, seconds) in stages.items()
            },
            batch_stats=[],
            memory_usage=[],
        )


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
    if info.kind == "rank":
        inputs = [TensorReply("query", "BYTES", [-1, 1]), TensorReply("passage", "BYTES", [-1, 1])]
        if info.images:
            inputs.append(TensorReply(IMAGE_INPUT, "BYTES", [-1, 1]))
        outputs = [
            TensorReply("index", "INT32", [-1, 1]),
            TensorReply("logit", "FP32", [-1, 1]),
            TensorReply("token_count", "INT32", [-1]),
        ]
    else:
        inputs = [TensorReply("text", "BYTES", [-1, 1])]
        outputs = [
            TensorReply("token_count", "INT32", [-1]),
            TensorReply("embeddings", "FP32", [-1, info.dimensions or -1]),
        ]
    settings = service.settings
    limit = limit_of(settings, info.kind)
    # Smaller than the limit: nv-ingest fills every request up to this number, and rows of several
    # requests share engine calls anyway.
    rows = min(limit.texts, settings.max_rows or MAX_BATCH_SIZES[info.kind])
    return KserveModel(triton_name(served.name), info.kind, inputs, outputs, limit, rows, served)


def _config_tensor(tensor: TensorReply) -> ConfigTensor:
    kind = "STRING" if tensor.datatype == "BYTES" else tensor.datatype
    optional = True if tensor.name == IMAGE_INPUT else UNSET
    return ConfigTensor(tensor.name, f"TYPE_{kind}", tensor.shape[1:], optional)
