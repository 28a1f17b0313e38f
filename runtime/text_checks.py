"""Checks of input texts: not blank, and valid Unicode."""

import re

from runtime.errors import BlankInput, ForbiddenText, TextPlace

# A visible character: not white space or a control, not one that renderers may ignore
# (DerivedCoreProperties.txt, Default_Ignorable_Code_Point: zero widths, direction marks, joiners,
# fillers, variation selectors, tags), not an annotation mark and not Braille's blank.
_VISIBLE = re.compile(
    r"[^\s\x00-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f"
    r"\u200b-\u200f\u202a-\u202e\u2060-\u206f\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0"
    r"\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
# Checked at a time: at most a millisecond, in which other threads wait for the GIL.
_PIECE_CHARS = 1 << 15


def is_blank(text: str) -> bool:
    """Whether no character of `text` is visible."""
    return not any(_VISIBLE.search(text, at, at + _PIECE_CHARS) for at in _pieces(text))


def check_text(place: TextPlace, text: str, *, blanks: bool = False) -> None:
    """Raise BlankInput if `text`, which is at `place` in the request, has no visible character,
    unless `blanks` are allowed. Raise ForbiddenText for half of a surrogate pair."""
    if not blanks and is_blank(text):
        raise BlankInput(place)
    try:
        for at in _pieces(text):
            text[at : at + _PIECE_CHARS].encode()
    except UnicodeEncodeError:
        raise ForbiddenText(place, "half of a surrogate pair") from None


def _pieces(text: str) -> range:
    return range(0, len(text), _PIECE_CHARS)
