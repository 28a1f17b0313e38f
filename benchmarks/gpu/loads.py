"""The requests: one query's pairs, as token ids, equal for every candidate."""

from dataclasses import dataclass
from pathlib import Path

from benchmarks.texts import TextMaker, mixed_lengths
from runtime.text import Encoding

_ROOT = Path(__file__).resolve().parents[2]
_TOKENIZER = _ROOT / "embedded" / "rank" / "tokenizer.json"
_TEMPLATE = "question:{query} \n \n passage:{passage}"
_LONGEST = 512


@dataclass(frozen=True)
class Load:
    """Rows of one request."""

    name: str
    rows: tuple[Encoding, ...]

    @property
    def tokens(self) -> int:
        """Real tokens of all rows."""
        return sum(map(len, self.rows))


def make_loads(passages: int, vocabulary: int) -> list[Load]:
    """`passages` of mixed lengths, as many of 256 tokens, 64 (at most) of 512, and small requests,
    dominated by kernel launches: 1 and 8 (at most) of 128.

    Token ids are taken modulo `vocabulary`, for models smaller than the tokenizer's.
    """
    even = ((passages, 256), (min(64, passages), 512), (min(8, passages), 128), (1, 128))
    lengths = {f"{passages} mixed": mixed_lengths(passages)}
    lengths |= {f"{count} × {length}": [length] * count for count, length in even}
    maker = TextMaker(_TOKENIZER, _TEMPLATE, _LONGEST)
    loads = []
    for name, wanted in lengths.items():
        encodings = maker.encode(maker.make(wanted).passages)
        rows = tuple(Encoding(row.token_ids % vocabulary, None) for row in encodings)
        loads.append(Load(name, rows))
    return loads
