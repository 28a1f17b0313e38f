"""Regular expressions of tokenizers, which backtrack: what a short text could take for ever.

The library `tokenizers` matches with Oniguruma, which gives a match up after 10,000,000 retries;
the library then panics. So the retries can be counted without a clock: a pattern is put into one
match many times over, and is tried on runs of the characters that it could stumble over. Whether it
gives up is the same on every machine.
"""

import time
from collections.abc import Iterator
from functools import lru_cache
from itertools import permutations

from tokenizers import Regex, normalizers

# Copies in one match: what takes 300,000 retries at one place of a text is refused.
_COPIES = 32
_MOST_BYTES = 1 << 16
# Of this length the square of the ways shows, of the shorter one what grows by powers.
_RUNS = (1024, 40)
# Before these many characters nothing is tried, so that what looks back finds something.
_SKIPPED = (0, 1, 64)
# Letters of several scripts, a blank, a digit and a full stop, beside what a pattern names.
_CHARACTERS = "a 7.Q一éяأア"
_SYNTAX = r"\()[]{}?*+|^$"
_MOST_OWN = 16
# Of these, every two are tried in turn.
_PAIRED = 10
# What ends a run: nothing, a line, and a character of no class, so that a match fails there.
_ENDS = ("", "\n", "\ue000")
# Patterns of families take less than one. Only one made to be slow under all counts takes more.
_MOST_SECONDS = 20.0


@lru_cache(maxsize=256)
def backtracks(pattern: str) -> bool:
    """Whether the pattern, which the library has read, takes ever more ways to match the same place
    of a text, or cannot be tried: it calls its own groups, or ends in a comment."""
    began = time.thread_time()
    once = f"(?=(?:{pattern})|)"
    copies = max(1, min(_COPIES, _MOST_BYTES // len(once.encode())))
    try:
        tried = [
            normalizers.Replace(Regex(rf"\A[\s\S]{{{skipped}}}" + once * copies), "")
            for skipped in _SKIPPED
        ]
        for text in _texts(pattern):
            for one in tried:
                one.normalize_str(text)
            if time.thread_time() - began > _MOST_SECONDS:
                return True
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:  # the library's panics are no Exceptions
        return True
    return False


def _texts(pattern: str) -> Iterator[str]:
    own = "".join(dict.fromkeys(sign for sign in pattern if sign not in _SYNTAX))
    characters = list(dict.fromkeys(_CHARACTERS[:3] + own[:_MOST_OWN] + _CHARACTERS))
    for one in characters:
        for length in _RUNS:
            yield from (one * length + end + own for end in _ENDS)
            yield one * length
    for one, other in permutations(characters[:_PAIRED], 2):
        yield (one + other) * _RUNS[0] + _ENDS[-1] + own
        yield one + other * _RUNS[1]
