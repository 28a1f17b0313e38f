"""The protocol buffers of KServe v2 over gRPC, as far as they are served here.

Names, numbers and types are the protocol's (package `inference`: the Open Inference Protocol's
grpc_predict_v2 and Triton's grpc_service and model_config). They are in a descriptor pool of their
own, so that they do not collide with those of Triton's client library in the same process.
"""

import re
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from server.errors import InvalidRequest

_Field = descriptor_pb2.FieldDescriptorProto
_PACKAGE = "inference"
# A message, and its fields as "name number type". A type with [] is repeated, with {} a map from
# string, with ? optional (a oneof looks like separate fields on the wire, of which one is set); one
# with a capital letter is a message of this table. Enumerations are numbers on the wire: data_type,
# see CONFIG_TYPES, and a health check's status (grpc.health.v1; messages have no package there).
_MESSAGES = """
ServerLiveRequest:
ServerLiveResponse: live 1 bool
ServerReadyRequest:
ServerReadyResponse: ready 1 bool
ModelReadyRequest: name 1 string, version 2 string
ModelReadyResponse: ready 1 bool
ServerMetadataRequest:
ServerMetadataResponse: name 1 string, version 2 string, extensions 3 string[]
ModelMetadataRequest: name 1 string, version 2 string
TensorMetadata: name 1 string, datatype 2 string, shape 3 int64[]
ModelMetadataResponse: name 1 string, versions 2 string[], platform 3 string,
    inputs 4 TensorMetadata[], outputs 5 TensorMetadata[]
InferParameter: bool_param 1 bool?, int64_param 2 int64?, string_param 3 string?,
    double_param 4 double?, uint64_param 5 uint64?
InferTensorContents: bool_contents 1 bool[], int_contents 2 int32[], int64_contents 3 int64[],
    uint_contents 4 uint32[], uint64_contents 5 uint64[], fp32_contents 6 float[],
    fp64_contents 7 double[], bytes_contents 8 bytes[]
InferInputTensor: name 1 string, datatype 2 string, shape 3 int64[], parameters 4 InferParameter{},
    contents 5 InferTensorContents
InferRequestedOutputTensor: name 1 string, parameters 2 InferParameter{}
ModelInferRequest: model_name 1 string, model_version 2 string, id 3 string,
    parameters 4 InferParameter{}, inputs 5 InferInputTensor[],
    outputs 6 InferRequestedOutputTensor[], raw_input_contents 7 bytes[]
InferOutputTensor: name 1 string, datatype 2 string, shape 3 int64[], parameters 4 InferParameter{},
    contents 5 InferTensorContents
ModelInferResponse: model_name 1 string, model_version 2 string, id 3 string,
    parameters 4 InferParameter{}, outputs 5 InferOutputTensor[], raw_output_contents 6 bytes[]
ModelRepositoryParameter: bool_param 1 bool, int64_param 2 int64, string_param 3 string,
    bytes_param 4 bytes
RepositoryModelLoadRequest: repository_name 1 string, model_name 2 string,
    parameters 3 ModelRepositoryParameter{}
RepositoryModelLoadResponse:
ModelConfigRequest: name 1 string, version 2 string
ModelInput: name 1 string, data_type 2 int32, dims 4 int64[], optional 8 bool
ModelOutput: name 1 string, data_type 2 int32, dims 3 int64[]
ModelDynamicBatching: preferred_batch_size 1 int32[]
ModelConfig: name 1 string, platform 2 string, max_batch_size 4 int32, input 5 ModelInput[],
    output 6 ModelOutput[], dynamic_batching 11 ModelDynamicBatching, backend 17 string
ModelConfigResponse: config 1 ModelConfig
ModelStatisticsRequest: name 1 string, version 2 string
StatisticDuration: count 1 uint64, ns 2 uint64
InferStatistics: success 1 StatisticDuration, fail 2 StatisticDuration, queue 3 StatisticDuration,
    compute_input 4 StatisticDuration, compute_infer 5 StatisticDuration,
    compute_output 6 StatisticDuration, cache_hit 7 StatisticDuration,
    cache_miss 8 StatisticDuration
ModelStatistics: name 1 string, version 2 string, last_inference 3 uint64, inference_count 4 uint64,
    execution_count 5 uint64, inference_stats 6 InferStatistics
ModelStatisticsResponse: model_stats 1 ModelStatistics[]
RepositoryIndexRequest: repository_name 1 string, ready 2 bool
ModelIndex: name 1 string, version 2 string, state 3 string, reason 4 string
RepositoryIndexResponse: models 1 ModelIndex[]
HealthCheckRequest: service 1 string
HealthCheckResponse: status 1 int32
"""
_MESSAGE = re.compile(r"^(\w+):(.*(?:\n .*)*)", re.MULTILINE)
CONFIG_TYPES = {
    "TYPE_UINT8": 2,
    "TYPE_INT8": 6,
    "TYPE_INT32": 8,
    "TYPE_FP32": 11,
    "TYPE_STRING": 13,
}


class Messages:
    """The message classes by name: `Messages()["ModelInferRequest"]`."""

    def __init__(self) -> None:
        file = descriptor_pb2.FileDescriptorProto(
            name="kserve_v2.proto", package=_PACKAGE, syntax="proto3"
        )
        for name, fields in _MESSAGE.findall(_MESSAGES):
            _describe(file.message_type.add(name=name), fields)
        pool = descriptor_pool.DescriptorPool()
        pool.Add(file)
        self._classes = {
            name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}"))
            for name, _ in _MESSAGE.findall(_MESSAGES)
        }

    def __getitem__(self, name: str) -> Any:
        return self._classes[name]

    def parse(self, name: str, message: bytes) -> Any:
        """Parse the bytes of the message `name`. Raises InvalidRequest."""
        try:
            return self._classes[name].FromString(message)
        except DecodeError:
            raise not_parsed(name) from None


def not_parsed(name: str) -> InvalidRequest:
    """The error of bytes that are not the message `name`."""
    return InvalidRequest("value_error", (), f"found bytes that are no {name}")


def _describe(message: Any, fields: str) -> None:
    for described in filter(None, map(str.strip, fields.split(","))):
        name, number, kind = described.split()
        field = message.field.add(name=name, number=int(number), label=_Field.LABEL_OPTIONAL)
        if kind.endswith("{}"):
            field.label = _Field.LABEL_REPEATED
            field.type = _Field.TYPE_MESSAGE
            field.type_name = f".{_PACKAGE}.{message.name}.{_add_entry(message, name, kind[:-2])}"
            continue
        if kind.endswith("[]"):
            field.label = _Field.LABEL_REPEATED
        if kind.endswith("?"):  # proto3's encoding of optional fields
            field.proto3_optional = True
            field.oneof_index = len(message.oneof_decl)
            message.oneof_decl.add(name=f"_{name}")
        _type(field, kind.rstrip("[]?"))


def _type(field: Any, kind: str) -> None:
    if kind[0].islower():
        field.type = _Field.Type.Value(f"TYPE_{kind.upper()}")
    else:
        field.type = _Field.TYPE_MESSAGE
        field.type_name = f".{_PACKAGE}.{kind}"


def _add_entry(message: Any, name: str, kind: str) -> str:
    """Add the message of a map's entries, as protocol buffers encode maps. Returns its name."""
    entry = message.nested_type.add(name=f"{name.title().replace('_', '')}Entry")
    entry.options.map_entry = True
    key = entry.field.add(name="key", number=1, label=_Field.LABEL_OPTIONAL)
    key.type = _Field.TYPE_STRING
    value = entry.field.add(name="value", number=2, label=_Field.LABEL_OPTIONAL)
    _type(value, kind)
    return str(entry.name)
