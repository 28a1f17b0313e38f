"""The tokenizer: byte-level BPE with BOS, in the form of the Llama 3 family.

One change to the family's split: a colon is always a piece of its own, so that the first word after
``question:`` and ``passage:`` is the same token that the word is elsewhere.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from recipe.config import PROMPT_TEMPLATE

VOCABULARY = 10240
BOS, EOS = "<|begin_of_text|>", "<|end_of_text|>"
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|:|[^\r\n\p{L}\p{N}:]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}:]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _sample(texts: Iterable[str], rng: random.Random) -> Iterator[str]:
    """60 % lower-cased (queries often are), each as the passage of a prompt.

    Every eighth text has its spaces replaced by colons and half of its words capitalised, so that
    frequent words are one token without a leading space too, as a text's first word needs.
    """
    for text in texts:
        text = text.lower() if rng.random() < 0.6 else text
        if rng.random() < 0.125:
            text = (text.title() if rng.random() < 0.5 else text).replace(" ", ":")
        yield PROMPT_TEMPLATE.format(query=text[:60].strip(), passage=text)


def train(texts: Iterable[str], seed: int) -> Tokenizer:
    """Learn the merges; BOS is id 0, EOS (also the padding) id 1, then the 256 bytes."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[BOS, EOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_sample(texts, random.Random(seed)), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A",
        pair=f"{BOS} $A {BOS} $B",
        special_tokens=[(BOS, tokenizer.token_to_id(BOS))],
    )
    return tokenizer
