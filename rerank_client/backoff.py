"""How long to wait before asking again."""

from collections.abc import Callable
from datetime import timezone
from email.utils import parsedate_to_datetime

LONGEST_WAIT_S = 60.0
_LONGEST_NUMBER = 9
# Of the time that is left, a pause that nobody asked for takes no more.
_PAUSE_SHARE = 0.25


def wait_s(
    attempt: int, asked_s: float | None, left_s: float, chance: Callable[[], float]
) -> float | None:
    """The pause after attempt 0, 1, …, shorter than the `left_s` seconds; None: not in that time.

    `asked_s` is what the server asked for: never earlier, and not all refused callers in the same
    moment. Longer than a minute is too long.
    """
    spare_s = left_s - (asked_s or 0.0)
    if spare_s <= 0 or (asked_s or 0.0) > LONGEST_WAIT_S:
        return None
    wanted_s = own_wait_s(attempt, chance) if asked_s is None else chance()
    return (asked_s or 0.0) + min(wanted_s, spare_s * _PAUSE_SHARE)


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
