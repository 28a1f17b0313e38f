"""Initial weights that match equal words: from a random start the loss does not improve.

The residual stream is divided by hand (see the constants): meaning in the first dimensions, then
named single dimensions. Layer 0 marks on which side of the passage marker each token is. The upper
layers let tokens attend to equal tokens on the other side, or to BOS if there is none; the rarity
of the matched token is written to one dimension, from which the score starts. Training changes all
weights.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import csr_matrix, diags
from sklearn.decomposition import TruncatedSVD
from tokenizers import Tokenizer
from torch import nn

from embedded.model import HIDDEN

MEANING = 120  # dimensions 0..119
RARITY, CONSTANT, SIDE, MARKER, START, FOUND = 120, 121, 122, 123, 124, 125  # FOUND + layer - 1
MARKER_TOKEN = "Ġ\u010aĠ\u010a"  # " \n \n" in byte-level spelling
CONSTANT_VALUE = 0.3
HALF = 32  # rotary pairs of one head: coordinates i and i + HALF rotate together
STILL = 12  # from this pair on the rotation over 200 tokens is below 1.5 radians
RESERVED = 4  # the slowest pairs, kept for side and BOS


def fold(token: str) -> str:
    """The class of a token: without case, leading space and plural ending."""
    word = token.removeprefix("Ġ").lower()
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def classes(tokenizer: Tokenizer) -> np.ndarray:
    """Class number of every token id, int64 [vocabulary]."""
    names = [fold(tokenizer.id_to_token(i)) for i in range(tokenizer.get_vocab_size())]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return np.array([numbers[name] for name in names])


def _counts(tokenizer: Tokenizer, texts: list[str], folded: np.ndarray) -> csr_matrix:
    """Passage x class counts, float32."""
    ids = [e.ids for e in tokenizer.encode_batch(texts, add_special_tokens=False)]
    rows = np.repeat(np.arange(len(ids)), [len(row) for row in ids])
    columns = folded[np.concatenate([np.array(row, dtype=np.int64) for row in ids])]
    shape = (len(ids), int(folded.max()) + 1)
    return csr_matrix((np.ones(len(rows), np.float32), (rows, columns)), shape=shape)


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)


def _idf(counts: csr_matrix) -> np.ndarray:
    passages = counts.shape[0]
    return np.log((1 + passages) / (1 + np.asarray((counts > 0).sum(0)).ravel()))


def idf_of(tokenizer: Tokenizer, texts: list[str]) -> np.ndarray:
    """The rarity of each token's class: log of texts over texts that contain it [vocabulary]."""
    folded = classes(tokenizer)
    return _idf(_counts(tokenizer, texts, folded))[folded]


def embeddings(tokenizer: Tokenizer, texts: list[str], seed: int) -> np.ndarray:
    """[vocabulary, hidden] float32: 0.6 LSA + 0.8 random per class, and the named dimensions."""
    folded = classes(tokenizer)
    counts = _counts(tokenizer, texts, folded)
    idf = _idf(counts)
    counts.data = 1 + np.log(counts.data)
    weighted = counts @ diags(idf.astype(np.float32))
    svd = TruncatedSVD(MEANING + 1, random_state=seed, n_iter=4).fit(weighted)
    # The first component is the frequency of a token, not its meaning.
    lsa = _unit((svd.components_.T * np.sqrt(svd.singular_values_))[:, 1:])
    noise = _unit(np.random.default_rng(seed).standard_normal(lsa.shape))
    table = np.zeros((len(folded), HIDDEN), np.float32)
    table[:, :MEANING] = _unit(0.6 * lsa + 0.8 * noise)[folded]
    table[:, RARITY] = 0.1 * np.minimum(idf, 8.0)[folded]
    table[:, CONSTANT] = CONSTANT_VALUE
    table[tokenizer.token_to_id(MARKER_TOKEN), : RARITY + 1] = 0
    table[tokenizer.token_to_id(MARKER_TOKEN), MARKER] = 1
    bos = tokenizer.token_to_id("<|begin_of_text|>")
    table[bos, : RARITY + 1] = 0
    table[bos, START] = 1
    table[bos, SIDE] = CONSTANT_VALUE  # BOS belongs to neither side
    return table


def _head(weight: torch.Tensor, head: int) -> torch.Tensor:
    return weight[head * 2 * HALF : (head + 1) * 2 * HALF]


def _mark_sides(ranker: nn.Module) -> None:
    """Layer 0, first head: a token after the marker attends to the marker alone.

    Query and key are a quarter turn apart, so each pair adds sin(angle * distance) to the score:
    positive after the marker, negative before it.
    """
    attention = ranker.model.layers[0].self_attn
    query = _head(attention.q_proj.weight, 0)
    key, value = _head(attention.k_proj.weight, 0), _head(attention.v_proj.weight, 0)
    for weight in (query, key, value):
        weight.zero_()
    query[3:HALF, CONSTANT] = 1.5
    key[3 + HALF :, MARKER] = 1.5
    value[0, MARKER] = 1
    attention.o_proj.weight[:, 0] = 0
    attention.o_proj.weight[SIDE, 0] = 2 * CONSTANT_VALUE / 11  # 11: a normalised marker


def _find_equals(ranker: nn.Module, layer: int, generator: torch.Generator) -> None:
    """Upper layers: equal tokens on opposite sides attend to each other, the rest to BOS."""
    attention = ranker.model.layers[layer].self_attn
    pairs = torch.arange(STILL, HALF - RESERVED)
    rows = torch.cat([pairs, pairs + HALF])
    for kv_head in (0, 1):
        random = torch.randn(MEANING, len(rows), generator=generator)
        basis = torch.linalg.qr(random).Q.T  # [rows, MEANING], orthonormal
        key = _head(attention.k_proj.weight, kv_head)
        key.zero_()
        key[rows, :MEANING] = 1.8 * basis
        key[HALF - 1, SIDE], key[HALF - 1, CONSTANT] = -2.1, 2.1
        key[HALF - 2, START] = 1.8
        for head, gain in ((2 * kv_head, 1.8), (2 * kv_head + 1, 1.0)):  # one strict, one loose
            query = _head(attention.q_proj.weight, head)
            query.zero_()
            query[rows, :MEANING] = gain * basis
            query[HALF - 1, SIDE], query[HALF - 1, CONSTANT] = 2.1, -2.1
            query[HALF - 2, CONSTANT] = 2.2 * gain / 1.8
        value = _head(attention.v_proj.weight, kv_head)
        value[0] = 0
        value[0, RARITY] = 1
    attention.o_proj.weight[:, :: 2 * HALF] = 0
    attention.o_proj.weight[FOUND + layer - 1, :: 2 * HALF] = 0.05


@torch.no_grad()
def start(ranker: nn.Module, table: np.ndarray, seed: int) -> None:
    """Fill the ranker with the weights described above."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in ranker.named_parameters():
        if weight.dim() == 2:
            scale = 0.05 if "o_proj" in name or "down_proj" in name else 1.0
            noise = torch.randn(weight.shape, generator=generator)
            weight.copy_(noise * scale / weight.shape[1] ** 0.5)
    ranker.model.embed_tokens.weight.copy_(torch.from_numpy(table))
    _mark_sides(ranker)
    for layer in range(1, len(ranker.model.layers)):
        _find_equals(ranker, layer, generator)
    ranker.score.weight.mul_(0.3)
    ranker.score.weight[0, [FOUND, FOUND + 1]] = 8.0
    ranker.score.weight[0, CONSTANT] = -1.0
