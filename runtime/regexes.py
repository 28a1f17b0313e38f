"""Regular expressions of tokenizers, which backtrack: what a short text could take for ever."""

import re

# One atom that is no group, or what opens, closes and repeats a group. A class may hold classes.
_TOKENS = re.compile(
    r"(?P<atom>\\(?:[pPx]\{[^}]*\}|.)|[^\\\[()*+?{|])"
    r"|(?P<open>\((?:\?(?:<?[=!]|>|[a-zA-Z-]*:|<[^>]*>|#))?)"
    r"|(?P<close>\))"
    r"|(?P<many>[*+]|\{\d*,\})"
    r"|(?P<few>\?|\{\d+(?:,\d+)?\})"
    r"|(?P<other>.)",
    re.DOTALL,
)


def nests_repeats(pattern: str) -> bool:
    """Whether a group that is repeated without bound repeats something without bound, as in (a+)+.

    Then a text can be cut in exponentially many ways, all of which are tried before a match fails.
    """
    # For each open group: whether something in it is repeated.
    inside = [False]
    closed = False
    at = 0
    while at < len(pattern):
        if pattern[at] == "[":
            at, closed = _behind_class(pattern, at), False
            continue
        found = _TOKENS.match(pattern, at)
        assert found is not None  # the last alternative takes anything
        at = found.end()
        if found["open"]:
            inside.append(False)
        elif found["close"]:
            closed = inside.pop() if len(inside) > 1 else False
            inside[-1] |= closed
            continue
        elif found["many"]:
            if closed:
                return True
            inside[-1] = True
        elif found["few"]:
            continue  # ((a+)?)+ repeats what is in both groups
        closed = False
    return False


def _behind_class(pattern: str, at: int) -> int:
    """The index behind the character class that begins `at`."""
    depth = 0
    while at < len(pattern):
        if pattern[at] == "\\":
            at += 1
        elif pattern[at] == "[":
            depth += 1
        elif pattern[at] == "]":
            depth -= 1
            if depth == 0:
                return at + 1
        at += 1
    return at
