"""The texts that clients rank."""

QUERY = "What is machine learning?"

FIVE = [
    "The weather is nice today",
    "Machine learning is a subset of AI",
    "Deep learning uses neural networks",
    "A recipe for bread asks for flour, water, salt and yeast; the dough rests overnight.",
    "Maschinelles Lernen findet Muster in Daten – ohne daß jemand die Regeln aufschreibt.",
]

_SUBJECTS = [
    "A neural network",
    "The harbour master",
    "An algorithm that learns from examples",
    "My neighbour's dog",
    "A statistical model of language, trained on a large collection of books and letters,",
    "The orchestra",
    "Supervised learning",
    "The old bridge over the river",
    "A database index",
    "The committee for the preservation of the botanical garden",
]
_PREDICATES = [
    "improves with more data.",
    "was repaired in the spring.",
    "predicts the next value of a series from the ones before it.",
    "sleeps most of the afternoon.",
    "finds patterns that nobody has written down as rules.",
    "needs a new roof.",
    "was praised in the newspaper, although few people had seen it at work.",
    "answers questions faster than it did a year ago.",
    "is closed on Mondays.",
    "generalises from known examples to cases that it has never seen.",
]
HUNDRED = [f"{subject} {predicate}" for subject in _SUBJECTS for predicate in _PREDICATES]

# More tokens than any reranker takes, whatever its tokenizer.
TOO_LONG = " ".join(f"chapter {number}" for number in range(20_000))
