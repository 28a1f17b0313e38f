"""EmbeddingGemma: Gemma 3's body reading both ways, a mean and two Dense."""

from typing import Any

import torch

from tests.zoo import sentence_files, vocabularies
from tests.zoo.decoders import Decoder
from tests.zoo.folders import ABSENT, config
from tests.zoo.sentence_files import dense
from tests.zoo.weights import cast, sharded

_GEMMA: dict[str, Any] = {
    "max_position_embeddings": 256,
    "use_bidirectional_attention": True,
    "sliding_window": 24,
    "query_pre_attn_scalar": 8,
    "layer_types": ["sliding_attention", "full_attention"],
}
_ENDS = {"query": "task: search result | query: ", "document": "title: none | text: "}


def _words() -> Any:
    return vocabularies.llama(adds_eos=True)


GEMMA = Decoder("EmbeddingGemma", "Gemma3Text", "gemma3_text", _GEMMA, _words)
_FILES = (
    sentence_files.embedder(
        6, modules=("Transformer", "Pooling", "Dense", "Dense", "Normalize"), prompts=_ENDS
    ),
    dense("2_Dense", 32, 48, bias=False),
    dense("3_Dense", 48, 32, bias=False),
)
CASES = (
    GEMMA.embedder("fp32", *_FILES),
    GEMMA.embedder("bf16", cast(torch.bfloat16), *_FILES),
    GEMMA.embedder("sharded with an index", sharded, *_FILES),
    GEMMA.embedder("no Dense", sentence_files.embedder(6)),
    GEMMA.embedder(
        "keys of transformers 4",
        config(
            rope_parameters=ABSENT,
            rope_theta=500000.0,
            rope_local_base_freq=5000.0,
            layer_types=ABSENT,
            sliding_window_pattern=2,
        ),
        *_FILES,
    ),
    GEMMA.embedder("an odd window", *_FILES, changes={"sliding_window": 21}),
    GEMMA.embedder(
        "causal",
        *_FILES,
        config(use_bidirectional_attention=False),
        refused="use_bidirectional_attention",
    ),
    GEMMA.embedder(
        "another scale of queries",
        *_FILES,
        config(query_pre_attn_scalar=168),
        refused="query_pre_attn_scalar",
    ),
    GEMMA.embedder(
        "no scale of queries",
        *_FILES,
        config(query_pre_attn_scalar=ABSENT),
        refused="no 'query_pre_attn_scalar'",
    ),
    GEMMA.embedder(
        "linear rope",
        *_FILES,
        config(rope_parameters={"full_attention": {"rope_type": "linear", "factor": 8.0}}),
        refused="rope_type",
    ),
)
