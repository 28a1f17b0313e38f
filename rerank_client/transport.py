"""The flow's words in httpx's, and back; nothing is sent here."""

import httpx

from rerank_client.answer import OK, Answer, NoAnswer
from rerank_client.budget import Budget, TooLarge
from rerank_client.flow import Send

# Of an error's body; a message is looked for in it.
ERROR_BYTES = 64 << 10
# Of httpx's transport errors, those that lie in the request itself.
_OUR_FAULT = (httpx.LocalProtocolError, httpx.UnsupportedProtocol)


def request(step: Send, budget: Budget) -> httpx.Request:
    """Its timeouts are further bounded by the running budget, at every wait for the network."""
    timeout = httpx.Timeout(None, connect=step.connect_s, pool=budget.seconds())
    return httpx.Request(
        "POST",
        step.url,
        headers=step.headers,
        content=step.body,
        extensions={"timeout": timeout.as_dict()},
    )


def expect_body(response: httpx.Response, budget: Budget) -> None:
    """Of a refusal little is read."""
    if response.status_code != OK:
        budget.narrow(ERROR_BYTES)


def answer(response: httpx.Response, body: bytearray, broken: Exception | None) -> Answer:
    """What came, `broken` off if it did. Raises that error when it may pass and the body counts."""
    if broken is not None and response.status_code == OK and not isinstance(broken, TooLarge):
        raise broken
    headers = dict(response.headers)
    return Answer(response.status_code, headers, bytes(body), whole=broken is None)


def no_answer(error: Exception) -> NoAnswer:
    """Whatever an exchange raised: timeouts and broken connections may pass, the rest will not."""
    passing = isinstance(error, (httpx.TransportError, OSError))
    return NoAnswer(error, passing and not isinstance(error, _OUR_FAULT))
