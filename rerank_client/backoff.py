"""Delays before a retry."""

from collections.abc import Callable
from datetime import timezone
from email.utils import parsedate_to_datetime

MAX_WAIT_S = 60.0
_MAX_DIGITS = 9
# A delay that the server did not ask for takes at most this share of the remaining time.
_PAUSE_SHARE = 0.25


def wait_s(
    attempt: int, retry_after_s: float | None, left_s: float, rand: Callable[[], float]
) -> float | None:
    """The delay after attempt 0, 1, …, shorter than the `left_s` seconds; None: no time is left.

    `retry_after_s` is from the server: the delay is never shorter, and jitter keeps refused
    clients from returning at the same moment. More than a minute is too long: None.
    """
    remaining_s = left_s - (retry_after_s or 0.0)
    if remaining_s <= 0 or (retry_after_s or 0.0) > MAX_WAIT_S:
        return None
    # 2**attempt seconds on average, with ±50 % jitter.
    wanted_s = 2**attempt * (0.5 + rand()) if retry_after_s is None else rand()
    return (retry_after_s or 0.0) + min(wanted_s, remaining_s * _PAUSE_SHARE)


def parse_retry_after(retry_after: str, now: Callable[[], float]) -> float | None:
    """Seconds ≥ 0 in a Retry-After header (a number or an HTTP-date); None: unreadable.

    `now` returns the time in seconds since 1970.
    """
    text = retry_after.strip()
    if text.isascii() and text.isdigit():
        return float(text) if len(text) <= _MAX_DIGITS else float("inf")
    try:
        date = parsedate_to_datetime(text)
        # The oldest format of an HTTP-date has no zone; it is always GMT.
        moment_s = (date if date.tzinfo else date.replace(tzinfo=timezone.utc)).timestamp()
        return max(0.0, moment_s - now())
    except (ValueError, TypeError, IndexError, OverflowError, OSError):
        return None
