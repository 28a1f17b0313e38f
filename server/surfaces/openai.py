"""POST /v1/embeddings: the embedding NIM's surface, which OpenAI's clients use too.

Shapes as in NIM 1.13.0 and as its clients need them: OpenAI SDK 3.52 (base64 by default),
langchain-nvidia-ai-endpoints 1.5.0, llama-index-embeddings-nvidia 0.6.0, nvidia-haystack 3.0.0
(reads `usage`), nv-ingest-client 26.3.0. Fields of vLLM's, Jina's, Infinity's, Mistral's and
Voyage's requests to this path are honoured too, or refused if they request vectors that this server
does not have.
"""

import asyncio
import binascii
from collections.abc import Container, Sequence
from functools import partial
from typing import Annotated, Any, get_args

import msgspec
import numpy as np
import numpy.typing as npt
import orjson
from litestar import Response, post
from litestar.di import NamedDependency
from msgspec import Meta

from runtime.postprocess import Embeddings, EmbeddingType, InputType, quantized
from runtime.requests import EmbedRequest, TokenLimits
from server.call import Field, Place
from server.errors import ErrorBody, Failure, InvalidRequest, UnknownModel
from server.exchange import MANY_NUMBERS, Exchange
from server.fields import merge_synonyms, one_of
from server.lax import Flag, Positive, lax_decoder
from server.nim_error import nim_error
from server.surface import Surface
from server.surfaces.messages import are_messages, conversations_of
from server.surfaces.modality import images_of
from server.surfaces.parts import Parts, parts_of, refuse_settings
from server.surfaces.truncation import PromptTokens, Side, Truncation, prompt_cut
from server.surfaces.usage import Usage, usage_of

_INPUT_TYPES: tuple[InputType, ...] = get_args(InputType)
_TYPES: tuple[EmbeddingType, ...] = get_args(EmbeddingType)
_FORMATS = ("float", "base64")
# Jina's names of input types.
_TASKS: dict[str, InputType] = {"retrieval.query": "query", "retrieval.passage": "passage"}
_TOKEN_IDS = " (langchain-openai: check_embedding_ctx_length=False)"
_TRAINED = "the model was trained with its special tokens"
_UNIT = "vectors come as the model was exported, most with length 1"
# In messages it means beside those of the template.
_TEMPLATED = (False,), "the template has the special tokens"
_NO_TEMPLATE = "this model's template takes none; leave it out"
# Fields with a fixed value: the accepted values, and the reason why no other is.
_FIXED_FIELDS: dict[str, tuple[tuple[object, ...], str]] = {
    "add_special_tokens": ((True,), _TRAINED),
    "use_activation": ((True,), _UNIT),
    "normalize": ((True,), _UNIT),
    "normalized": ((True,), _UNIT),
    "late_chunking": ((False,), "every text is embedded by itself"),
    "return_multivector": ((False,), "a text has one vector"),
    "embed_dtype": (("float32",), "embedding_type has the types that there are"),
    "endianness": (("native", "little"), "numbers come with their lowest byte first"),
    "padding": (("do_not_pad",), "texts are not padded here"),
    "infinity_extra_modality": (("text",), "images are sent with modality"),
}


def _enum(*values: str) -> Meta:
    """The documented values of a field that is checked here, for our own error message."""
    return Meta(extra_json_schema={"enum": list(values)})


def _fixed(name: str) -> Meta:
    """The documented values of a field of _FIXED_FIELDS."""
    return Meta(extra_json_schema={"enum": list(_FIXED_FIELDS[name][0])})


Conversation = list[dict[str, Any]]
Input = str | dict[str, Any] | Conversation


# Request. Unknown fields are ignored; null means a field's default (litellm sends it).
class EmbeddingRequest(msgspec.Struct):
    """The body of an embedding request. `input` has texts, Jina's objects of a `text` or an
    `image`, or vLLM's conversations of one message, which may be in `messages` instead; the role
    of a message, query or document, is its input type. `task`, `output_dimension` and
    `output_dtype` are synonyms of `input_type`, `dimensions` and `embedding_type`.
    `truncate_prompt_tokens` truncates a text at `truncation_side`, prefix and special tokens
    included. The flags `truncate` (Jina) and `truncation` (Voyage) truncate texts that are too
    long. The last fields accept only the value that applies anyway."""

    input: str | Annotated[list[Input], Meta(extra_json_schema={"minItems": 1})] | None = None
    messages: (
        Annotated[list[dict[str, Any] | Conversation], Meta(extra_json_schema={"minItems": 1})]
        | None
    ) = None
    model: str | None = None
    input_type: Annotated[str, _enum(*_INPUT_TYPES)] | None = None
    encoding_format: Annotated[str, _enum(*_FORMATS)] | None = None
    embedding_type: Annotated[str, _enum(*_TYPES)] | None = None
    dimensions: Positive | None = None
    truncate: Truncation | bool | None = None
    truncation: Flag | None = None
    modality: str | list[str] | None = None
    infinity_extra_modality: Annotated[str, _fixed("infinity_extra_modality")] | None = None
    task: Annotated[str, _enum(*_TASKS)] | None = None
    output_dimension: Positive | None = None
    output_dtype: Annotated[str, _enum(*_TYPES)] | None = None
    truncate_prompt_tokens: PromptTokens | None = None
    truncation_side: Side | None = None
    user: str | None = None
    chat_template: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    mm_processor_kwargs: dict[str, Any] | None = None
    media_io_kwargs: dict[str, Any] | None = None
    add_special_tokens: Flag | None = None
    use_activation: Annotated[Flag, _fixed("use_activation")] | None = None
    normalize: Annotated[Flag, _fixed("normalize")] | None = None
    normalized: Annotated[Flag, _fixed("normalized")] | None = None
    late_chunking: Annotated[Flag, _fixed("late_chunking")] | None = None
    return_multivector: Annotated[Flag, _fixed("return_multivector")] | None = None
    embed_dtype: Annotated[str, _fixed("embed_dtype")] | None = None
    endianness: Annotated[str, _fixed("endianness")] | None = None
    padding: Annotated[str, _fixed("padding")] | None = None


# Reply
class Embedding(msgspec.Struct):
    """One text's vector: numbers, or base64 of their little-endian bytes."""

    index: int
    embedding: list[float] | str
    object: str = "embedding"


class EmbeddingReply(msgspec.Struct):
    """The vectors in the order of the texts. `model` is the requested name."""

    data: list[Embedding]
    model: str
    usage: Usage
    object: str = "list"


# Mapping
_DECODER = lax_decoder(EmbeddingRequest)


def input_type_of(
    request: EmbeddingRequest, accepted: Container[str]
) -> tuple[str | None, InputType | None]:
    """The model's name without its suffix, and the input type by field or suffix. A name that is
    `accepted` as it is has no suffix."""
    task = one_of(request.task, tuple(_TASKS), "task")
    input_type = one_of(request.input_type, _INPUT_TYPES, "input_type")
    input_type = merge_synonyms(
        {"input_type": input_type, "task": None if task is None else _TASKS[task]}
    )
    name = request.model
    if name is None or name in accepted:
        return name, input_type
    for kind in _INPUT_TYPES:
        if name.endswith(f"-{kind}"):
            if input_type not in (None, kind):
                message = (
                    f"found {input_type!r} and a model name that ends in -{kind}; send one of them"
                )
                raise InvalidRequest("value_error", ("input_type",), message)
            return name.removesuffix(f"-{kind}"), kind
    return name, input_type


def encode(embeddings: Embeddings, request: EmbeddingRequest, model: str) -> bytes:
    """The reply's bytes."""
    kind = _type_of(request)
    rows = quantized(embeddings.vectors, kind)
    write = _base64 if request.encoding_format == "base64" else _numbers
    data = [
        {"index": index, "embedding": msgspec.Raw(write(row)), "object": "embedding"}
        for index, row in enumerate(rows)
    ]
    reply = {
        "object": "list",
        "data": data,
        "model": model,
        "usage": usage_of(embeddings),
    }
    return msgspec.json.encode(reply)


def _base64(row: npt.NDArray[np.generic]) -> bytes:
    little = row.astype(row.dtype.newbyteorder("<"), copy=False)
    return b'"%b"' % binascii.b2a_base64(little.tobytes(), newline=False)


def _numbers(row: npt.NDArray[np.generic]) -> bytes:
    # orjson writes float32 with the fewest digits that round-trip.
    return orjson.dumps(np.ascontiguousarray(row), option=orjson.OPT_SERIALIZE_NUMPY)


def _dimensions_of(request: EmbeddingRequest) -> int | None:
    for name in ("dimensions", "output_dimension"):
        found = getattr(request, name)
        if found is not None and found < 1:
            raise InvalidRequest("greater_than", (name,), "wanted a whole number of 1 or more")
    sizes = {"dimensions": request.dimensions, "output_dimension": request.output_dimension}
    return merge_synonyms(sizes)


def _type_of(request: EmbeddingRequest) -> EmbeddingType:
    first = one_of(request.embedding_type, _TYPES, "embedding_type")
    second = one_of(request.output_dtype, _TYPES, "output_dtype")
    return merge_synonyms({"embedding_type": first, "output_dtype": second}) or "float"


def _check(request: EmbeddingRequest, *, chat: bool) -> None:
    """Refuse documented values that are not supported here, of messages if `chat`."""
    one_of(request.encoding_format, _FORMATS, "encoding_format")
    _type_of(request)
    fixed = _FIXED_FIELDS | ({"add_special_tokens": _TEMPLATED} if chat else {})
    for name, (known, why) in fixed.items():
        found = getattr(request, name)
        if found is not None and found not in known:
            values = " or ".join(msgspec.json.encode(word).decode() for word in known)
            raise InvalidRequest("literal_error", (name,), f"wanted {values}: {why}")
    if chat and (request.chat_template is not None or request.chat_template_kwargs):
        name = "chat_template_kwargs" if request.chat_template is None else "chat_template"
        raise InvalidRequest("value_error", (name,), _NO_TEMPLATE)


def _inputs(request: EmbeddingRequest) -> tuple[Sequence[Input], Field, bool]:
    """What is to be embedded, its field, and whether it is messages. Raises InvalidRequest."""
    if isinstance(request.input, str):
        return [request.input], Field("input", alone=True), False
    if request.input is not None:
        return request.input, Field("input"), are_messages(request.input)
    if request.messages is not None:
        return request.messages, Field("messages"), True
    raise InvalidRequest("missing", ("input",), "wanted the field `input`")


def _parts(one: Input, place: Place) -> str | Parts:
    """An item of an `input` without messages. Raises InvalidRequest."""
    if isinstance(one, dict):
        return parts_of(one, place)
    assert isinstance(one, str)
    return one


# Error body
class OpenAiErrorDetail(msgspec.Struct):
    """OpenAI's error object."""

    message: str
    type: str
    param: str | None
    code: str | None


class OpenAiError(msgspec.Struct):
    """NIM's error body with OpenAI's inside, so that clients of both show the message."""

    message: str
    detail: dict[str, Any]
    type: str
    error: OpenAiErrorDetail
    object: str = "error"


def error_body(failure: Failure) -> Annotated[ErrorBody, OpenAiError]:
    """NIM's error body plus OpenAI's `error`."""
    nim = nim_error(failure)
    param = ".".join(map(str, failure.location)) or None
    error = OpenAiErrorDetail(failure.message, nim.type, param, failure.problem)
    reply = OpenAiError(failure.message, nim.detail, nim.type, error)
    return ErrorBody(failure.status, msgspec.json.encode(reply))


# Route
@post("/v1/embeddings", status_code=200, tags=["Embeddings"], body=EmbeddingRequest)
async def embed(exchange: NamedDependency[Exchange]) -> Response[EmbeddingReply]:
    """Embed texts, and images as passages.

    `modality` (text, image or text_image; one, or one for each input) says what the inputs are: an
    image is a data URL in base64, alone or within a text. Without it the inputs tell. Objects of
    `input` and `messages` say themselves what they are.
    `input_type` may be the ending of the model's name instead (-query, -passage). `dimensions`
    keeps the first components and normalises them again; more than there are: all of them, as
    the NIM has it. int8 scales each vector to a largest component of ±127, uint8 adds 128,
    ubinary packs signs, binary is that minus 128. Headers: x-truncated-passages when any text
    was cut.
    """
    payload = await exchange.json(_DECODER, texts="input", hint=_TOKEN_IDS)
    served = exchange.service.served("embed")
    name, input_type = input_type_of(payload, served.accepted_names)
    if name is not None and name not in served.accepted_names:
        raise UnknownModel(served.name)
    inputs, at, chat = _inputs(payload)
    _check(payload, chat=chat)
    truncate, most_tokens = prompt_cut(
        served.model.info.max_tokens,
        tokens=payload.truncate_prompt_tokens,
        side=payload.truncation_side,
        truncate=payload.truncate,
        truncation=payload.truncation,
    )
    exchange.check_count("embed", len(inputs), at)
    parts: Sequence[str | Parts]
    if chat:
        parts, at, role = conversations_of(inputs, at.name)
        input_type = merge_synonyms({"input_type": input_type, "role": role})
    else:
        parts = [_parts(one, at.place(index)) for index, one in enumerate(inputs)]
    texts, images = await images_of(exchange, parts, payload.modality, at, input_type)
    if images:
        refuse_settings(
            mm_processor_kwargs=payload.mm_processor_kwargs,
            media_io_kwargs=payload.media_io_kwargs,
        )
    passages, at = await exchange.passages("embed", texts, images, at)
    asked = EmbedRequest(
        passages,
        input_type,
        _dimensions_of(payload),
        truncate=truncate,
        limits=TokenLimits(pair=most_tokens),
    )
    embeddings = await exchange.embed(asked, input_at=at)
    write = partial(encode, embeddings, payload, payload.model or served.name)
    many = embeddings.vectors.size > MANY_NUMBERS
    return exchange.encoded_reply(await asyncio.to_thread(write) if many else write())


SURFACE = Surface(controllers=(embed,), error_format=error_body, paths=("/v1/embeddings",))
