"""Numbers and tables in Markdown."""

from collections.abc import Sequence

from benchmarks.results import Spread


def number(value: float, digits: int = 3) -> str:
    """A few significant digits, never an exponent."""
    if value == 0:
        return "0"
    if abs(value) >= 10 ** (digits - 1):
        return f"{value:.0f}"
    text = f"{value:.{digits}g}"
    return f"{value:.9f}".rstrip("0") if "e" in text else text


def median_and_range(value: Spread, digits: int = 3) -> str:
    """Median, and the range when there is more than one value."""
    middle = number(value.median, digits)
    if value.low == value.high:
        return middle
    return f"{middle} ({number(value.low, digits)}–{number(value.high, digits)})"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; nothing without rows."""
    if not rows:
        return ""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
