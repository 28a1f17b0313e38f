"""How values of environment variables are read."""

from collections.abc import Callable, Mapping

Reader = Callable[[str], object]

# Words for no; a refused variable that has one does no harm.
OFF = ("0", "false", "no", "off")
_ON = ("1", "true", "yes", "on")
MOST_PORT = 65535
_MAX_DIGITS = 12


class InvalidValue(ValueError):
    """A value that cannot be read; the text says what is wanted."""


def one_of(
    words: Mapping[str, object], wanted: str = "", fold: Callable[[str], str] = str
) -> Reader:
    """A reader of `words`; `fold` brings a value to their case."""

    def read(value: str) -> object:
        if fold(value) not in words:
            raise InvalidValue(wanted or f"one of {', '.join(words)}")
        return words[fold(value)]

    return read


def whole(low: int, high: int | None = None) -> Callable[[str], int]:
    """A reader of whole numbers from `low` to `high`, or without end."""
    wanted = f"a whole number from {low}" + (f" to {high}" if high is not None else " up")

    def read(value: str) -> int:
        if not (value.isascii() and value.isdigit() and len(value) <= _MAX_DIGITS):
            raise InvalidValue(wanted)
        number = int(value)
        if number < low or (high is not None and number > high):
            raise InvalidValue(wanted)
        return number

    return read


def address(value: str) -> tuple[str, int]:
    """Host and port; an IPv6 address without its brackets. Raises InvalidValue."""
    host, colon, port = value.rpartition(":")
    if not colon or not host:
        raise InvalidValue("host:port, such as 0.0.0.0:8000")
    return host.strip("[]"), whole(1, MOST_PORT)(port)


def hosts(value: str) -> tuple[str, ...]:
    """The names of hosts, in lower case. Raises InvalidValue."""
    found = tuple(host.strip().lower() for host in value.split(",") if host.strip())
    if not found or any(set(host) & set("/:@*?") for host in found):
        raise InvalidValue("host names without port, separated by commas")
    return found


def triton(scheme: str) -> Callable[[str], str]:
    """A reader of the addresses of an engine: its name with the address, as
    `runtime.engines.open_engine` takes it."""

    def read(value: str) -> str:
        found, separator, host = value.rpartition("://")
        known = (scheme, f"{scheme}s")
        if (separator and found not in known) or not host or set(host) & set("@?# "):
            raise InvalidValue(f"{scheme}://host:port or {scheme}s://host:port")
        return f"triton={found or scheme}://{host}"

    return read


FLAG = one_of({**dict.fromkeys(_ON, True), **dict.fromkeys(OFF, False)}, fold=str.lower)
