"""httpx's responses and errors in the words of the flow; nothing is sent here."""

import httpx

from rerank_client.answer import Answer, NoAnswer

# The last two reach us unwrapped: no resolver takes a host name with a label of 64 letters.
SEND_ERRORS = (httpx.HTTPError, httpx.InvalidURL, ValueError, OSError)
# Of httpx's transport errors, those that lie in the request itself.
_OUR_FAULT = (httpx.LocalProtocolError, httpx.UnsupportedProtocol)


def answer(response: httpx.Response) -> Answer:
    """A response that was read to its end."""
    return Answer(response.status_code, dict(response.headers), response.content)


def no_answer(error: Exception) -> NoAnswer:
    """One of SEND_ERRORS: timeouts and broken connections may pass, the rest will not."""
    passing = isinstance(error, (httpx.TransportError, OSError))
    return NoAnswer(error, passing and not isinstance(error, _OUR_FAULT))
