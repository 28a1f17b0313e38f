"""Text Embeddings Inference: POST /embed, POST /tokenize, GET /info, and its bodies on /rerank.

Shapes and statuses as in the router of text-embeddings-inference 1.9.3. Token ids as inputs are
refused, because the model has its own tokenizer. An empty text, or a pair of empty texts, is the
error Empty; a text of blanks is accepted.
"""

import asyncio
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import islice
from typing import Annotated, Any

import msgspec
import orjson
from litestar import Controller, Response, get, post
from litestar.di import NamedDependency
from msgspec import Meta

from runtime import requests
from runtime.embedder import Embedder
from runtime.errors import EngineError, InputTypeRequired, NoPassages, Overloaded, Unavailable
from runtime.postprocess import InputType, Ranking, descending, relevance
from runtime.requests import RankRequest, Truncate
from runtime.tokens import Token
from runtime.version import version
from server.call import Field, limit_of, listed
from server.errors import ErrorBody, Failure, InvalidRequest, KindNotServed, NotReady
from server.exchange import Exchange
from server.fields import one_of
from server.lax import StrictPositive
from server.service import Service
from server.surface import Surface

# The most bytes to tokenise: every token becomes a JSON object some ten times as long as its text,
# and a tokenizer may make a token of every byte.
_MOST_BYTES = 1 << 20
_TOKENS_AT_ONCE = 1 << 12
_PROMPTS: dict[str, InputType] = {"query": "query", "passage": "passage", "document": "passage"}
_SIDES: dict[str, Truncate] = {"left": "START", "Left": "START", "right": "END", "Right": "END"}


Direction = Annotated[str, Meta(extra_json_schema={"enum": list(_SIDES)})]
Texts = Annotated[list[str], Meta(extra_json_schema={"minItems": 1})]
PromptName = Annotated[str, Meta(extra_json_schema={"enum": list(_PROMPTS)})]


# Requests. Unknown fields are ignored.
class TextsRequest(msgspec.Struct):
    """TEI's ranking request: POST /rerank with `texts`."""

    query: str
    texts: Texts
    raw_scores: bool = False
    return_text: bool = False
    truncate: bool | None = False
    truncation_direction: Direction | None = None


class EmbedRequest(msgspec.Struct):
    """POST /embed. `prompt_name` is the input type of the texts: query, passage or document."""

    inputs: str | Texts
    normalize: Annotated[bool, Meta(extra_json_schema={"const": True})] | None = True
    truncate: bool | None = False
    truncation_direction: Direction | None = None
    prompt_name: PromptName | None = None
    dimensions: StrictPositive | None = None


class TokenizeRequest(msgspec.Struct):
    """POST /tokenize: texts without template. An embedder's prefix is added with `prompt_name` or
    EMBED_DEFAULT_INPUT_TYPE."""

    inputs: str | Texts
    add_special_tokens: bool = True
    prompt_name: PromptName | None = None


# Replies
class Rank(msgspec.Struct, omit_defaults=True):
    """One text: the logit's sigmoid, or the logit with raw_scores; `text` with return_text."""

    index: int
    score: float
    text: str | None = None


class SimpleToken(msgspec.Struct, gc=False):
    """One token; special tokens have no place in the text."""

    id: int
    text: str
    special: bool
    start: int | None
    stop: int | None


class Info(msgspec.Struct):
    """GET /info."""

    model_id: str
    model_sha: str | None
    model_dtype: str
    served_model_name: str
    model_type: dict[str, dict[str, Any]]
    max_concurrent_requests: int
    max_input_length: int
    max_batch_tokens: int
    max_batch_requests: int | None
    max_client_batch_size: int
    auto_truncate: bool
    tokenization_workers: int
    version: str
    sha: None
    docker_label: None


# Mapping
_EMBED = msgspec.json.Decoder(EmbedRequest)
_TOKENIZE = msgspec.json.Decoder(TokenizeRequest)


def truncate_of(truncate: bool | None, direction: str | None) -> Truncate:
    """Our truncation for TEI's two fields."""
    if direction is not None and direction not in _SIDES:
        raise InvalidRequest("literal_error", ("truncation_direction",), "wanted left or right")
    return _SIDES[direction or "right"] if truncate else "NONE"


def _ranks(ranking: Ranking, payload: TextsRequest) -> list[Rank]:
    scores = ranking.logits if payload.raw_scores else relevance(ranking.logits)
    return [
        Rank(i, float(scores[i]), payload.texts[i] if payload.return_text else None)
        for i in descending(ranking.logits).tolist()
    ]


def _refuse_empty(texts: list[str], at: Field) -> None:
    """Raise InvalidRequest for an empty text, as TEI does."""
    if "" in texts:
        place = at.place(texts.index(""))
        raise InvalidRequest("too_short", place, "this text is empty; send at least one character")


def _input_type(name: str | None) -> InputType | None:
    known = one_of(name, tuple(_PROMPTS), "prompt_name")
    return None if known is None else _PROMPTS[known]


def _prompt(service: Service, name: str | None) -> str:
    """The prefix of texts to tokenise. Raises InvalidRequest."""
    input_type, model = _input_type(name), service.primary.model
    if isinstance(model, Embedder):
        return model.prefix(input_type or service.settings.default_input_type)
    if name is not None:
        message = "the reranker, whose tokens these are, has no prompts; leave it out"
        raise InvalidRequest("value_error", ("prompt_name",), message)
    return ""


def _check_embed(payload: EmbedRequest, most: int | None) -> None:
    """Raise InvalidRequest for options that vectors of `most` dimensions do not support."""
    if payload.normalize is False:
        message = (
            "vectors come as the model was exported, most with length 1; leave it out, or send true"
        )
        raise InvalidRequest("value_error", ("normalize",), message)
    dimensions = payload.dimensions
    if dimensions is not None and (dimensions < 1 or (most is not None and dimensions > most)):
        problem = "greater_than" if dimensions < 1 else "less_than_equal"
        raise InvalidRequest(problem, ("dimensions",), f"wanted 1 to {most}, as many as there are")


def _encode_tokens(texts: list[str], found: Iterable[Iterator[Token]]) -> bytes:
    """Encode the reply in parts, so that a long text neither becomes objects all at once nor blocks
    other work."""
    return b"[" + b",".join(map(_encode_text, texts, found)) + b"]"


def _encode_text(text: str, tokens: Iterator[Token]) -> bytes:
    parts = []
    while some := list(islice(tokens, _TOKENS_AT_ONCE)):
        parts.append(msgspec.json.encode([_simple(token, text) for token in some])[1:-1])
    return b"[" + b",".join(parts) + b"]"


def _bytes_of(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode(errors="surrogatepass"))


def _simple(token: Token, text: str) -> SimpleToken:
    if token.special:
        return SimpleToken(token.id, token.text, True, None, None)
    start, stop = token.start, token.stop
    return SimpleToken(token.id, text[start:stop], False, start, stop)


def _info(service: Service) -> Info:
    info = service.primary.model.info
    settings = service.settings
    embeds = info.kind == "embed"
    labels = {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
    return Info(
        model_id=service.primary.name,
        model_sha=None if info.mock else info.version,
        model_dtype=info.precision,
        served_model_name=service.primary.name,
        model_type={"embedding": {"pooling": info.pooling}} if embeds else {"reranker": labels},
        max_concurrent_requests=settings.queue_rows,
        max_input_length=info.max_tokens,
        max_batch_tokens=info.token_budget,
        max_batch_requests=info.max_rows,
        max_client_batch_size=limit_of(settings, info.kind).texts,
        auto_truncate=False,
        tokenization_workers=1,
        version=version(),
        sha=None,
        docker_label=None,
    )


# Error body
class TeiError(msgspec.Struct):
    """TEI's error body."""

    error: str
    error_type: str


# TEI's own statuses and error types. The first class in an error's method resolution order that has
# a row decides.
_KINDS: dict[type[Exception], tuple[int, str]] = {
    NoPassages: (400, "Empty"),
    InvalidRequest: (422, "Validation"),
    KindNotServed: (424, "Backend"),
    EngineError: (424, "Backend"),
    Overloaded: (429, "Overloaded"),
    Unavailable: (503, "Unhealthy"),
}
_REJECTED = 422


def error_body(failure: Failure) -> Annotated[ErrorBody, TeiError]:
    """TEI's error body and statuses."""
    if failure.problem == "too_short":
        status, word = _KINDS[NoPassages]
    else:
        known = next((_KINDS[kind] for kind in failure.kind.__mro__ if kind in _KINDS), None)
        rejected = failure.status in (400, _REJECTED)
        default = (_REJECTED if rejected else failure.status, "Validation")
        status, word = known or default
    return ErrorBody(status, msgspec.json.encode(TeiError(failure.message, word)))


# Controller
async def rank_texts(exchange: Exchange, payload: TextsRequest) -> Response[Any]:
    """Answer POST /rerank with `texts`."""
    truncate = truncate_of(payload.truncate, payload.truncation_direction)
    at = Field("texts")
    if not payload.query:
        _refuse_empty(payload.texts, at)
    asked = RankRequest(payload.query, payload.texts, truncate=truncate, blanks=True)
    ranking = await exchange.rank(asked, passages_at=at)
    return exchange.reply(_ranks(ranking, payload))


class TeiRoutes(Controller):
    """The routes that only TEI has."""

    tags = ("TEI",)

    @post("/embed", status_code=200, body=EmbedRequest)
    async def embed(self, exchange: NamedDependency[Exchange]) -> Response[list[list[float]]]:
        """Embed texts as TEI does."""
        payload = await exchange.json(_EMBED, texts="inputs")
        _check_embed(payload, exchange.service.embedder.info.dimensions)
        texts, at = listed("inputs", payload.inputs)
        _refuse_empty(texts, at)
        asked = requests.EmbedRequest(
            texts,
            _input_type(payload.prompt_name),
            payload.dimensions,
            truncate=truncate_of(payload.truncate, payload.truncation_direction),
            blanks=True,
        )
        try:
            embeddings = await exchange.embed(asked, input_at=at)
        except InputTypeRequired as error:
            message = (
                "this model embeds queries and passages differently, and "
                f"EMBED_DEFAULT_INPUT_TYPE is not set; wanted one of {', '.join(_PROMPTS)}"
            )
            raise InvalidRequest("missing", ("prompt_name",), message) from error
        body = await asyncio.to_thread(
            orjson.dumps, embeddings.vectors, None, orjson.OPT_SERIALIZE_NUMPY
        )
        return exchange.encoded_reply(body)

    @post("/tokenize", status_code=200, body=TokenizeRequest)
    async def tokenize(
        self, exchange: NamedDependency[Exchange]
    ) -> Response[list[list[SimpleToken]]]:
        """Tokens of texts."""
        payload = await exchange.json(_TOKENIZE, texts="inputs")
        texts, at = listed("inputs", payload.inputs)
        kind = exchange.service.primary.model.info.kind
        exchange.check_count(kind, len(texts), at)
        _refuse_empty(texts, at)
        if prompt := _prompt(exchange.service, payload.prompt_name):
            texts = [prompt + text for text in texts]
        if (size := sum(map(_bytes_of, texts))) > _MOST_BYTES:
            message = f"found {size} bytes of text, wanted at most {_MOST_BYTES} together"
            raise InvalidRequest("too_long", ("inputs",), message)
        encode = partial(_encode_tokens, texts)
        body = await exchange.tokens(
            texts, encode, special=payload.add_special_tokens, at=at, blanks=True
        )
        return exchange.encoded_reply(body)

    @get("/info", errors=(NotReady,))
    async def info(self, service: NamedDependency[Service]) -> Response[Info]:
        """What is served, in TEI's shape."""
        return Response(_info(service))


SURFACE = Surface(
    controllers=(TeiRoutes,), error_format=error_body, paths=("/embed", "/tokenize", "/info")
)
