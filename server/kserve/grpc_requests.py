"""Parse requests from their messages, after counting the values in them."""

from collections.abc import Iterable
from itertools import chain, islice
from typing import Any, get_args

from runtime.profile import Kind
from server.call import limit_of
from server.characters import wider_bytes
from server.errors import InvalidRequest
from server.kserve.messages import Messages, not_parsed
from server.kserve.tensors import elements_of
from server.kserve.wire import Counted, NoMessage, TooManyValues, count_values, layout_of
from server.settings import Settings
from server.time_slices import TimeSlices

# Values for each text: up to three tensors have one value for it, plus a margin.
_VALUES_OF_A_TEXT = 4
# Names, shapes, parameters and outputs.
_VALUES_BESIDE = 1024
# The most memory of a parsed value, besides its bytes: a field and its Python object.
VALUE_BYTES = 256
# Fields of length-prefixed texts.
_RAW = frozenset({"raw_input_contents"})


class Requests:
    """Parses requests of `methods`, of at most `most` values each."""

    def __init__(self, messages: Messages, methods: Iterable[str], settings: Settings) -> None:
        self._messages = messages
        self._layouts = {
            method: layout_of(messages[f"{method}Request"].DESCRIPTOR, _RAW) for method in methods
        }
        texts, self._variable = max(limit_of(settings, kind) for kind in get_args(Kind))
        self.most = _VALUES_OF_A_TEXT * texts + _VALUES_BESIDE

    async def decoded_bytes(self, method: str, message: bytes, slices: TimeSlices) -> int:
        """A bound on the memory of a parsed message beside its bytes: 256 for each value, and the
        extra bytes of texts with wide characters. Raises InvalidRequest as soon as there are too
        many values."""
        found = await self.count(method, message, slices)
        elements = chain.from_iterable(map(elements_of, found.raw))
        # A tensor with more elements is refused.
        texts = chain(found.texts, islice(elements, self.most))
        return found.values * VALUE_BYTES + await wider_bytes(texts, slices)

    async def count(self, method: str, message: bytes, slices: TimeSlices) -> Counted:
        """Count the values in a message of the method. Raises InvalidRequest as soon as there are
        too many."""
        try:
            return await count_values(message, self._layouts[method], self.most, slices)
        except NoMessage:
            raise not_parsed(f"{method}Request") from None
        except TooManyValues:
            raise InvalidRequest(
                "too_long",
                (),
                f"found more than {self.most} values in one message, wanted at most as many; "
                f"send fewer texts in one request, or raise {self._variable}",
            ) from None

    def parse(self, method: str, message: bytes) -> Any:
        """Parse a message whose values were counted. Raises InvalidRequest."""
        return self._messages.parse(f"{method}Request", message)
