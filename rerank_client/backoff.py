"""How long to wait before asking again."""

from collections.abc import Callable
from datetime import timezone
from email.utils import parsedate_to_datetime

LONGEST_WAIT_S = 60.0
_LONGEST_NUMBER = 9


def own_wait_s(attempt: int, chance: Callable[[], float]) -> float:
    """After attempt 0, 1, …: 2**attempt seconds on average, half to one and a half times that."""
    return float(2**attempt) * (0.5 + chance())


def asked_wait_s(retry_after: str, now: Callable[[], float]) -> float | None:
    """Seconds ≥ 0 that a Retry-After header (seconds or HTTP-date) asks for; None: unreadable.

    `now` is the time in seconds since 1970.
    """
    text = retry_after.strip()
    if text.isascii() and text.isdigit():
        return float(text) if len(text) <= _LONGEST_NUMBER else float("inf")
    try:
        date = parsedate_to_datetime(text)
        # The oldest form of an HTTP-date names no zone; it is always GMT.
        moment_s = (date if date.tzinfo else date.replace(tzinfo=timezone.utc)).timestamp()
        return max(0.0, moment_s - now())
    except (ValueError, TypeError, IndexError, OverflowError, OSError):
        return None
