"""vLLM's chat embeddings: conversations of one message, each with a vector.

`messages`, or `input`, is one conversation or a list of them, as in vLLM's requests of 2026-11. The
role of a message is its input type, as in vLLM's template for NVIDIA's vision embedder; a role that
is neither query nor document leaves it to the request.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from runtime.postprocess import InputType
from server.call import Field, Place
from server.errors import InvalidRequest
from server.surfaces.parts import CONTENT, Parts, content_of

_ROLE = "role"
_ROLES: dict[str, InputType] = {"query": "query", "document": "passage"}


class Conversations(NamedTuple):
    """The message of each conversation, the field that names them, and the input type of their
    roles, None if these say nothing."""

    found: list[Parts]
    at: Field
    input_type: InputType | None


def are_messages(inputs: Sequence[object]) -> bool:
    """Whether the list `input` has messages, or conversations, among its items."""
    return any(isinstance(one, list) or (isinstance(one, dict) and _ROLE in one) for one in inputs)


def conversations_of(given: Sequence[object], name: str) -> Conversations:
    """The conversations in the field `name`. Raises InvalidRequest for anything else, for several
    messages in one of them, and for roles of queries beside those of documents."""
    batch = any(isinstance(one, list) for one in given)
    at = Field(name, inside=(0, CONTENT) if batch else (CONTENT,))
    found: list[Parts] = []
    types: set[InputType | None] = set()
    for index, conversation in enumerate(given if batch else [given]):
        message, place = _only(conversation, at.place(index)[:-2]), at.place(index)[:-1]
        types.add(_input_type(message, place))
        # As that template joins them.
        found.append(content_of(message, place, between=""))
    if len(types) > 1:
        told = "found several roles, wanted one in all messages; send a request for each"
        raise InvalidRequest("value_error", (name,), told)
    return Conversations(found, at, types.pop() if types else None)


def _only(conversation: object, place: Place) -> Mapping[str, Any]:
    """The only message of the conversation at `place`. Raises InvalidRequest."""
    if not isinstance(conversation, list):
        raise InvalidRequest("type_error", place, "wanted a list of one message")
    if len(conversation) != 1:
        message = (
            f"found {len(conversation)} messages, wanted one, as a conversation has one vector; "
            "send a list of conversations"
        )
        raise InvalidRequest("value_error", place, message)
    (found,) = conversation
    if not isinstance(found, dict):
        raise InvalidRequest("type_error", (*place, 0), "wanted a message")
    return found


def _input_type(message: Mapping[str, Any], place: Place) -> InputType | None:
    role = message.get(_ROLE)
    if not isinstance(role, str):
        raise InvalidRequest("type_error", (*place, _ROLE), "wanted a text")
    return _ROLES.get(role)
