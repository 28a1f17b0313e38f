"""How checks print what they measured, and how they end."""

from collections.abc import Mapping


def lines(rows: Mapping[str, object]) -> str:
    """One line a figure: its name, and its value in a column."""
    width = max(map(len, rows))
    return "\n".join(f"{name:<{width}} {value}" for name, value in rows.items())


def verdict(*, passed: bool) -> int:
    """Print the verdict on the whole check; its exit status."""
    print("passed" if passed else "FAILED")
    return 0 if passed else 1
