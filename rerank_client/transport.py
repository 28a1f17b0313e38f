"""Conversion between the flow and httpcore; nothing is sent here."""

from io import BytesIO
from typing import Any

import httpcore

from rerank_client.answer import OK, Answer, NoAnswer
from rerank_client.budget import Budget, TooLarge
from rerank_client.flow import Send

# Limit of an error's body, which is searched for a message.
ERROR_BYTES = 64 << 10
_RETRYABLE = (
    *(httpcore.TimeoutException, httpcore.NetworkError, httpcore.RemoteProtocolError),
    *(httpcore.ProxyError, OSError),
)


def request(step: Send) -> dict[str, Any]:
    """The arguments of a pool's request; the current budget limits its waits as well."""
    return {
        "method": "POST",
        "url": step.url,
        "headers": step.headers,
        "content": step.body,
        "extensions": {"timeout": {"connect": step.connect_s}},
    }


def expect_body(response: httpcore.Response, budget: Budget) -> None:
    """Lower the limit for a refusal. Raises RemoteProtocolError for an answer to no request."""
    if not budget.bytes:
        raise httpcore.RemoteProtocolError("an answer came before its request")
    if response.status != OK:
        budget.limit(ERROR_BYTES)


def answer(response: httpcore.Response, body: BytesIO, broken: Exception | None) -> Answer:
    """The answer, maybe incomplete (`broken`). Raises `broken` if a retry may help and the body
    matters."""
    if broken is not None and response.status == OK and not isinstance(broken, TooLarge):
        raise broken
    headers: dict[str, str] = {}
    for raw_name, raw_value in response.headers:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    # getvalue does not copy.
    return Answer(response.status, headers, body.getvalue(), complete=broken is None)


def no_answer(error: Exception, *, closed: bool) -> NoAnswer:
    """The error of an exchange: timeouts and broken connections may pass unless the client is
    closed, other errors not."""
    return NoAnswer(error, isinstance(error, _RETRYABLE) and not closed)
