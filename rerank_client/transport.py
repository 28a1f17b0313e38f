"""The flow's words in httpcore's, and back; nothing is sent here."""

from io import BytesIO
from typing import Any

import httpcore

from rerank_client.answer import OK, Answer, NoAnswer
from rerank_client.budget import Budget, TooLarge
from rerank_client.flow import Send

# Of an error's body; a message is looked for in it.
ERROR_BYTES = 64 << 10
_PASSING = (
    *(httpcore.TimeoutException, httpcore.NetworkError, httpcore.RemoteProtocolError),
    *(httpcore.ProxyError, OSError),
)


def request(step: Send) -> dict[str, Any]:
    """What a pool is to send; its waits are bounded by the running budget as well."""
    return {
        "method": "POST",
        "url": step.url,
        "headers": step.headers,
        "content": step.body,
        "extensions": {"timeout": {"connect": step.connect_s}},
    }


def expect_body(response: httpcore.Response, budget: Budget) -> None:
    """Of a refusal little is read. Raises RemoteProtocolError for the answer to another request."""
    if not budget.bytes:
        raise httpcore.RemoteProtocolError("an answer came before it was asked for")
    if response.status != OK:
        budget.narrow(ERROR_BYTES)


def answer(response: httpcore.Response, body: BytesIO, broken: Exception | None) -> Answer:
    """What came, `broken` off if it did. Raises that error when it may pass and the body counts."""
    if broken is not None and response.status == OK and not isinstance(broken, TooLarge):
        raise broken
    headers: dict[str, str] = {}
    for raw_name, raw_value in response.headers:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    # getvalue makes no copy.
    return Answer(response.status, headers, body.getvalue(), whole=broken is None)


def no_answer(error: Exception, *, closed: bool) -> NoAnswer:
    """Whatever an exchange raised: timeouts and broken connections may pass unless the client is
    closed, the rest will not."""
    return NoAnswer(error, isinstance(error, _PASSING) and not closed)
