"""The raw texts that every checkpoint of the zoo is asked about.

The last passage is longer than any of its models, so that the place of the cut shows.
"""

from typing import Literal

Kind = Literal["query", "passage"]

QUERY = "What is machine learning?"
EXTRA_TOKEN = "[E1]"
_LONG = "Snow fell on the pass all night, and by morning the road to the valley was closed. "
PASSAGES = (
    "Machine learning is a subset of AI.",
    "The weather is nice today, said the farmer, and went to look after the sheep.",
    f"Deep Learning uses NEURAL networks with {EXTRA_TOKEN} many layers of weights",
    "No.",
    "北京是中国的首都。 café",
    "Tabs\tand\nnew lines   and runs of   spaces",
    "ＡＩ ﬁne 🤔",
    "[SEP] and </s> and <|end_of_text|> are no ends.",
    _LONG * 24,
)
PAIRS = tuple((QUERY, passage) for passage in PASSAGES)
TEXTS: tuple[tuple[str, Kind], ...] = (
    (QUERY, "query"),
    (_LONG * 24, "query"),
    *((passage, "passage") for passage in PASSAGES),
)
