"""Catastrophic backtracking in a tokenizer's regular expressions, found before they are used.

The library `tokenizers` matches with Oniguruma, which gives up after 10,000,000 retries; the
library then panics. That makes it possible to count retries without a clock: the pattern is
repeated many times in one match, and tried on runs of characters that may make it backtrack. The
result is the same on every machine.
"""

import time
from collections.abc import Iterator
from functools import lru_cache
from itertools import permutations

from tokenizers import Regex, normalizers

# Copies of the pattern in one match: one that takes 300,000 retries at one position is refused.
_COPIES = 32
_MOST_BYTES = 1 << 16
# Lengths of the runs: the long one shows quadratic growth, the short one exponential growth.
_RUNS = (1024, 40)
# Characters skipped before the match, so that a lookbehind finds something.
_SKIPPED = (0, 1, 64)
# Letters of several scripts, a blank, a digit and a full stop; the pattern's own are added.
_CHARACTERS = "a 7.Q一éяأア"
_SYNTAX = r"\()[]{}?*+|^$"
_MOST_OWN = 16
# Of so many characters, every pair is tried as an alternating run.
_PAIRED = 10
# Ends of a run: nothing, a newline, and a character of no class, so that the match fails there.
_ENDS = ("", "\n", "\ue000")
# Known patterns take less than one second. Only a pattern made to evade the counts takes more.
_MOST_SECONDS = 20.0


@lru_cache(maxsize=256)
def backtracks(pattern: str) -> bool:
    """Whether the pattern, which the library has compiled, backtracks catastrophically. Also True
    if it cannot be tried because it calls its own groups or ends in a comment."""
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
    except BaseException:  # the library's panics are not Exceptions
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
