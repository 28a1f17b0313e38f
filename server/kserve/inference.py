"""One inference on any transport: texts as named input tensors, results as named output tensors.

Outputs keep the order of the input rows, because KServe's row i of an output belongs to row i of
the input. So `index` is the row's own number.
"""

import time
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, get_args

import numpy as np

from runtime.postprocess import EmbeddingType, InputType, quantized
from runtime.requests import EmbedRequest, RankRequest, Truncate
from server.call import Call, Field
from server.errors import InvalidRequest
from server.fields import one_of
from server.images import SentImage
from server.kserve.models import IMAGE_INPUT, KserveModel
from server.kserve.tensors import Output, TextTensor, refuse_shared_memory
from server.surfaces.modality import images_of

Word = TypeVar("Word", bound=str)
Parameters = Mapping[str, Any]
# By the model's names of them; each as it was sent.
Inputs = Mapping[str, TextTensor]

_TRUNCATES: tuple[Truncate, ...] = get_args(Truncate)
_INPUT_TYPES: tuple[InputType, ...] = get_args(InputType)
_TYPES: tuple[EmbeddingType, ...] = get_args(EmbeddingType)
_MODALITY = "modality"
# The vision NIM's other names of inputs.
_ALIASES = {"passages": "passage"}
# Python itself refuses to read more than 4300.
_MOST_DIGITS = 12
_LONGEST_TIMEOUT_US = 10**12


async def infer(
    call: Call,
    model: KserveModel,
    tensors: Iterable[TextTensor],
    parameters: Parameters,
    wanted: Iterable[tuple[str, Parameters]],
) -> list[Output]:
    """Run the model and return the `wanted` outputs, each with its parameters; all if none is
    named. Raises InvalidRequest and what `call` raises.

    `tensors` and `wanted` are consumed one by one, up to the first that is invalid.
    """
    names = _output_names(model, wanted)
    _shorten_deadline(call, parameters)
    inputs = _by_name(model, tensors)
    run = _rank if model.kind == "rank" else _embed
    outputs = {output.name: output for output in await run(call, inputs, parameters)}
    return [outputs[name] for name in names]


async def _rank(call: Call, inputs: Inputs, parameters: Parameters) -> list[Output]:
    (_, queries), (name, passages) = inputs["query"], inputs["passage"]
    if len(queries) not in (1, len(passages)):
        message = f"found {len(queries)} queries for {len(passages)} passages, wanted 1 or as many"
        raise InvalidRequest("value_error", ("query",), message)
    truncate = _word(parameters, "truncate", _TRUNCATES, "NONE")
    seen, at = await call.passages("rank", passages, _images(inputs), Field(name))
    ranking = await call.rank(
        RankRequest(queries[0] if len(queries) == 1 else queries, seen, truncate=truncate),
        query_at=Field("query"),
        passages_at=at,
    )
    rows = np.arange(len(passages), dtype=np.int32)
    return [
        Output("index", rows[:, None]),
        Output("logit", ranking.logits[:, None]),
        Output("token_count", ranking.token_counts.astype(np.int32)),
    ]


def _images(inputs: Inputs) -> dict[int, SentImage]:
    """The images of passages, by number; an empty text stands for none."""
    if IMAGE_INPUT not in inputs:
        return {}
    (_, found), passages = inputs[IMAGE_INPUT], len(inputs["passage"][1])
    if len(found) != passages:
        message = f'found {len(found)} images for {passages} passages, wanted one for each, or ""'
        raise InvalidRequest("value_error", (IMAGE_INPUT,), message)
    return {
        index: SentImage(image, (IMAGE_INPUT, index)) for index, image in enumerate(found) if image
    }


async def _embed(call: Call, inputs: Inputs, parameters: Parameters) -> list[Output]:
    kind = _word(parameters, "embedding_type", _TYPES, "float")
    # The NIM's own default over gRPC is query.
    default_type = call.service.settings.default_input_type or "query"
    input_type = _word(parameters, "input_type", _INPUT_TYPES, default_type)
    (name, given), (_, modality) = inputs["text"], inputs.get(_MODALITY, (_MODALITY, None))
    texts, images = await images_of(call, given, modality, Field(name), input_type)
    passages, at = await call.passages("embed", texts, images, Field(name))
    request = EmbedRequest(
        passages,
        input_type,
        _whole(parameters, "dimensions", 1, "wanted a whole number of 1 or more"),
        truncate=_word(parameters, "truncate", _TRUNCATES, "NONE"),
    )
    embeddings = await call.embed(request, input_at=at)
    return [
        Output("token_count", embeddings.token_counts.astype(np.int32)),
        Output("embeddings", quantized(embeddings.vectors, kind)),
    ]


def _by_name(model: KserveModel, tensors: Iterable[TextTensor]) -> Inputs:
    known = [facts.name for facts in model.inputs if facts.name != IMAGE_INPUT]
    optional = [_MODALITY] if model.kind == "embed" else [IMAGE_INPUT]
    found: dict[str, TextTensor] = {}
    for tensor in tensors:
        name = _ALIASES.get(tensor[0], tensor[0])
        if name not in (*known, *optional):
            message = (
                f"found another input, wanted {' and '.join(known)}, or {optional[0]} beside them"
            )
            raise InvalidRequest("value_error", ("inputs",), message)
        if name in found:
            raise InvalidRequest("value_error", ("inputs",), f"found {name} twice")
        found[name] = tensor
    if missing := [name for name in known if name not in found]:
        raise InvalidRequest("missing", ("inputs",), f"wanted the input {' and '.join(missing)}")
    return found


def _output_names(model: KserveModel, wanted: Iterable[tuple[str, Parameters]]) -> list[str]:
    known = [facts.name for facts in model.outputs]
    found: list[str] = []
    for index, (name, parameters) in enumerate(wanted):
        place = ("outputs", index)
        refuse_shared_memory(place, parameters)
        if parameters.get("classification"):
            message = "classification is not served here; leave it out for the values themselves"
            raise InvalidRequest("value_error", place, message)
        if name not in known:
            message = f"found another output, wanted one of {', '.join(known)}"
            raise InvalidRequest("value_error", place, message)
        if name in found:
            raise InvalidRequest("value_error", place, f"found {name} twice")
        found.append(name)
    return found or known


def _shorten_deadline(call: Call, parameters: Parameters) -> None:
    """Apply Triton's parameter `timeout`, in microseconds, to the deadline; 0 is no limit."""
    if number := _whole(parameters, "timeout", 0, "wanted microseconds, 0 or more"):
        within_s = min(number, _LONGEST_TIMEOUT_US) * 1e-6
        call.deadline = min(call.deadline, time.monotonic() + within_s)


def _word(parameters: Parameters, name: str, known: tuple[Word, ...], default: Word) -> Word:
    return one_of(parameters.get(name), known, "parameters", name) or default


def whole_number(text: str) -> int | None:
    """The number in ASCII digits in `text`; None if it is not one, or absurdly long."""
    known = text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS
    return int(text) if known else None


def _whole(parameters: Parameters, name: str, least: int, wanted: str) -> int | None:
    """The parameter `name` as a whole number, None without it. Clients with a single parameter type
    send it as text or as a float. Raises InvalidRequest below `least`."""
    found = number = parameters.get(name)
    if isinstance(found, str):
        number = whole_number(found)
    elif isinstance(found, float) and found.is_integer():
        number = int(found)
    if found is None:
        return None
    if not isinstance(number, int) or isinstance(number, bool) or number < least:
        problem = "greater_than" if least else "greater_than_equal"
        raise InvalidRequest(problem, ("parameters", name), wanted)
    return number
