"""NIM's ranking surface: POST /v1/ranking and the paths of NVIDIA's hosted service.

Shapes as NIM 1.10.0 answers and its clients need them: langchain-nvidia-ai-endpoints 1.5.0,
llama-index-postprocessor-nvidia-rerank 0.7.0, nvidia-haystack 3.0.0, litellm 1.95.1,
nv-ingest-client 26.3.0, Elasticsearch (which refuses any further key inside a ranking).
"""

import re
import time
from typing import cast, get_args

import msgspec
from litestar import Controller, Response, post
from litestar.di import NamedDependency
from litestar.params import FromPath
from msgspec import UNSET, UnsetType

from runtime.postprocess import Ranking
from runtime.text import Truncate
from server.connection import answer_or_leave, read_json_body
from server.errors import AnyRequest, Failure, NotValid, UnknownModel
from server.observe import RANKED
from server.service import Service


# Request. Unknown fields are ignored: litellm sends top_k.
class Text(msgspec.Struct):
    """A query or passage. `image` exists for vision models only."""

    text: str | UnsetType = UNSET
    image: object = None


class RankingRequest(msgspec.Struct):
    """The body of a ranking request; null stands for a field's default (Haystack sends it)."""

    query: Text
    passages: list[Text]
    model: str | None = None
    truncate: str | None = None


# Reply
class Ranked(msgspec.Struct):
    """One passage: its index in the request and its raw logit."""

    index: int
    logit: float


class Usage(msgspec.Struct):
    """Tokens of all pairs; the query counts once for every passage."""

    prompt_tokens: int
    total_tokens: int


class RankingReply(msgspec.Struct):
    """All passages by descending logit. There is no `model` key, as in NIM 1.10.0."""

    rankings: list[Ranked]
    usage: Usage


# Mapping
_TRUNCATES = get_args(Truncate)
_DECODER = msgspec.json.Decoder(RankingRequest)
_ENCODER = msgspec.json.Encoder()
# msgspec ends its messages with the place, as in "… - at `$.passages[3].text`".
_PLACE = re.compile(r"^(?P<message>.*?)(?: - at `\$(?P<path>[^`]*)`)?$", re.DOTALL)
_MISSING = re.compile(r"missing required field `(\w+)`")
_STEP = re.compile(r"\.(\w+)|\[(\d+)\]")


def decode(body: bytes) -> RankingRequest:
    """The request in `body`; NotValid says where it is wrong, without repeating it."""
    try:
        return _DECODER.decode(body)
    except msgspec.ValidationError as error:
        raise _misfit(str(error)) from None
    except msgspec.DecodeError as error:
        raise NotValid("json_invalid", (), str(error)) from None
    except UnicodeDecodeError:
        raise NotValid("json_invalid", (), "found bytes that are not UTF-8") from None
    except RecursionError:
        raise NotValid("json_invalid", (), "found JSON that is nested too deeply") from None


def texts_of(request: RankingRequest) -> tuple[str, list[str]]:
    """Query and passages. Raises NotValid for an image or a text that is not there."""
    query = _text(request.query, ("query",))
    passages = [_text(p, ("passages", index)) for index, p in enumerate(request.passages)]
    return query, passages


def truncate_of(request: RankingRequest) -> Truncate:
    """How to cut texts that are too long. START is not in NVIDIA's docs, but in its recipe."""
    if request.truncate is None:
        return "NONE"
    if request.truncate not in _TRUNCATES:
        raise NotValid("literal_error", ("truncate",), f"wanted one of {', '.join(_TRUNCATES)}")
    return cast(Truncate, request.truncate)


def encode(ranking: Ranking) -> bytes:
    """The reply's bytes."""
    logits = ranking.logits.tolist()
    rankings = [Ranked(index, logits[index]) for index in ranking.order.tolist()]
    tokens = int(ranking.token_counts.sum())
    return _ENCODER.encode(RankingReply(rankings, Usage(tokens, tokens)))


def _text(text: Text, location: tuple[str | int, ...]) -> str:
    if text.image is not None:
        raise NotValid("value_error", (*location, "image"), "this model ranks text, not images")
    if isinstance(text.text, UnsetType):
        raise NotValid("missing", (*location, "text"), "wanted the field `text`")
    return text.text


def _misfit(message: str) -> NotValid:
    found = _PLACE.match(message)
    path = found["path"] if found else None
    location = tuple(int(i) if i else name for name, i in _STEP.findall(path or ""))
    text = found["message"] if found else message
    if missing := _MISSING.search(text):
        return NotValid("missing", (*location, missing[1]), f"wanted the field `{missing[1]}`")
    return NotValid("type_error", location, text)


# Error voice
def voice(failure: Failure) -> bytes:
    """NIM's two error bodies.

    `message` and `error` both hold the text: Astra and langchain read the one, older clients of
    the hosted service the other; `detail` must not be null for langchain.
    """
    body: dict[str, object] = {"object": "error", "message": failure.message}
    if failure.problem is not None:
        body["detail"] = {
            "type": failure.problem,
            "loc": ["body", *failure.location],
            "msg": failure.message,
        }
        body["type"] = "request_validation_error"
    else:
        body |= {"error": failure.message, "detail": {}, "type": "invalid_request_error"}
    return _ENCODER.encode(body)


# Controller
class NimRanking(Controller):
    """The three paths of one operation."""

    @post(["/v1/ranking", "/v1/retrieval/nvidia/reranking"], status_code=200)
    async def rank(self, request: AnyRequest, service: NamedDependency[Service]) -> Response[bytes]:
        """Rank passages for a query."""
        return await _rank(request, service, None)

    @post("/v1/retrieval/{org:str}/{model:str}/reranking", status_code=200)
    async def rank_with(
        self,
        request: AnyRequest,
        service: NamedDependency[Service],
        org: FromPath[str],
        model: FromPath[str],
    ) -> Response[bytes]:
        """The same with the model in the path, as litellm and the hosted service do it."""
        return await _rank(request, service, f"{org}/{model}")


async def _rank(request: AnyRequest, service: Service, path_model: str | None) -> Response[bytes]:
    settings = service.settings
    deadline = time.monotonic() + settings.request_timeout_s
    body = await read_json_body(request, settings.body_limit_bytes, settings.request_timeout_s)
    asked = decode(body)
    for name in (path_model, asked.model):
        if name is not None and name not in service.accepted_names:
            raise UnknownModel(service.served_name)
    if len(asked.passages) > settings.max_passages:
        raise NotValid(
            "too_long",
            ("passages",),
            f"found {len(asked.passages)} passages, wanted at most {settings.max_passages}; "
            "RERANK_MAX_PASSAGES raises the limit",
        )
    query, passages = texts_of(asked)
    ranking = await answer_or_leave(
        request, service.rank(query, passages, truncate_of(asked), deadline)
    )
    request.scope["state"][RANKED] = ranking
    headers = {"x-truncated-passages": str(ranking.truncated)} if ranking.truncated else {}
    return Response(encode(ranking), media_type="application/json", headers=headers)
