"""XLM-R, RoBERTa, ModernBERT and DeBERTa: their tiny checkpoints, and what users of all have."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from tests.zoo import sentence_files, vocabularies
from tests.zoo.adapters import lora
from tests.zoo.bert import ONE_LABEL, TWO_LABELS
from tests.zoo.case import Case
from tests.zoo.folders import (
    extra_token,
    tokenizer_config,
    write_json,
    write_tokenizer,
)
from tests.zoo.texts import EXTRA_TOKEN
from tests.zoo.weights import (
    COMPILED,
    FILE,
    UNCOMPILED,
    Step,
    cast,
    pickled,
    save,
    seeded,
    sharded,
)
from tests.zoo.witness import Embedder, Making, Ranker, adapted, copied

_SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
_ROBERTA = _SIZES | {
    "hidden_act": "gelu",
    "max_position_embeddings": 258,
    "type_vocab_size": 1,
    "layer_norm_eps": 1e-5,
    "bos_token_id": 0,
    "pad_token_id": 1,
    "eos_token_id": 2,
}
FULL, SLIDING = "full_attention", "sliding_attention"


@dataclass(frozen=True)
class Family:
    """One family: its classes of transformers, its config and its tokenizer."""

    name: str
    ranks: str
    embeds: str | None
    config: Mapping[str, Any]
    tokenizer: Callable[[], Tokenizer]
    tokenizer_class: str
    special: Mapping[str, str]
    inputs: list[str] | None
    projections: tuple[str, ...]

    def folder(self, class_name: str, **changes: Any) -> Step:
        """Weights of transformers' class, config.json and the tokenizer."""

        def step(directory: Path) -> None:
            words = self.tokenizer()
            settings = {"architectures": [class_name], "vocab_size": words.get_vocab_size()}
            settings |= {**self.config, **changes}
            write_tokenizer(
                directory,
                words,
                self.tokenizer_class,
                self.special,
                **({} if self.inputs is None else {"model_input_names": self.inputs}),
            )
            write_json(directory / "config.json", settings)
            save(seeded(class_name, settings), directory / FILE)

        return step

    def ranker(
        self,
        layout: str,
        *steps: Step,
        witness: Making = Ranker,
        changes: Mapping[str, Any] | None = None,
        **expected: Any,
    ) -> Case:
        """A cross-encoder; `changes` are in config.json before weights are made."""
        base = self.folder(self.ranks, **ONE_LABEL | dict(changes or {}))
        return Case(f"{self.name} cross-encoder", layout, (base, *steps), witness, **expected)

    def embedder(
        self, layout: str, *steps: Step, witness: Making = Embedder, **expected: Any
    ) -> Case:
        """An embedder; sentence-transformers' files come with `steps`."""
        assert self.embeds is not None
        base = self.folder(self.embeds)
        return Case(f"{self.name} embedder", layout, (base, *steps), witness, **expected)

    def modular(self, layout: str, *steps: Step, **expected: Any) -> Case:
        """A body whose score sentence-transformers' modules make; their files come with `steps`."""
        assert self.embeds is not None
        name, base = f"{self.name} modular cross-encoder", self.folder(self.embeds)
        return Case(name, layout, (base, *steps), Ranker, **expected)

    def rankers(self) -> tuple[Case, ...]:
        """What users of every family have."""
        return (
            self.ranker("fp32"),
            self.ranker("bf16", cast(torch.bfloat16)),
            self.ranker("fp16", cast(torch.float16)),
            self.ranker("sharded with an index", sharded),
            self.ranker("pytorch_model.bin only", pickled, refused="pytorch_model.bin"),
            self.ranker(
                "adapter beside the base",
                lora(*self.projections),
                witness=adapted(Ranker),
            ),
            self.ranker(
                "_orig_mod. before all names", COMPILED, witness=copied(Ranker, UNCOMPILED)
            ),
            self.ranker("extra token, resized", extra_token(EXTRA_TOKEN, resized=True)),
            self.ranker("model_max_length 64", tokenizer_config(model_max_length=64)),
            self.ranker(
                "CrossEncoder 6, Identity",
                sentence_files.cross_encoder(activation_fn="torch.nn.modules.linear.Identity"),
            ),
            self.ranker("two labels", changes=TWO_LABELS),
        )

    def embedders(self) -> tuple[Case, ...]:
        """What users of every family have."""
        return (
            self.embedder("sentence-transformers 3, mean", sentence_files.embedder()),
            self.embedder(
                "sentence-transformers 6, cls", sentence_files.embedder(6, pooling="cls")
            ),
            self.embedder("bf16", cast(torch.bfloat16), sentence_files.embedder()),
            self.embedder("sharded with an index", sharded, sentence_files.embedder()),
            self.embedder("max_seq_length 64", sentence_files.embedder(max_seq_length=64)),
            self.embedder(
                "prompts for queries and documents",
                sentence_files.embedder(6, prompts={"query": "query: ", "document": "passage: "}),
            ),
            self.embedder(
                "adapter beside the base",
                lora(*self.projections, task="FEATURE_EXTRACTION"),
                sentence_files.embedder(),
                witness=adapted(Embedder),
            ),
        )


XLM_ROBERTA = Family(
    "XLM-R",
    "XLMRobertaForSequenceClassification",
    "XLMRobertaModel",
    _ROBERTA | {"model_type": "xlm-roberta"},
    vocabularies.xlm_roberta,
    "XLMRobertaTokenizer",
    vocabularies.ANGLES,
    None,
    ("query", "value"),
)
ROBERTA = Family(
    "RoBERTa",
    "RobertaForSequenceClassification",
    "RobertaModel",
    _ROBERTA | {"model_type": "roberta"},
    vocabularies.roberta,
    "RobertaTokenizer",
    vocabularies.ANGLES,
    None,
    ("query", "value"),
)
CAMEMBERT = Family(
    "CamemBERT",
    "CamembertForSequenceClassification",
    "CamembertModel",
    _ROBERTA | {"model_type": "camembert", "bos_token_id": 5, "eos_token_id": 6},
    vocabularies.camembert,
    "CamembertTokenizer",
    vocabularies.ANGLES,
    None,
    ("query", "value"),
)
MODERNBERT = Family(
    "ModernBERT",
    "ModernBertForSequenceClassification",
    "ModernBertModel",
    _SIZES
    | {
        "model_type": "modernbert",
        "hidden_activation": "gelu",
        "max_position_embeddings": 256,
        "norm_eps": 1e-5,
        "global_attn_every_n_layers": 2,
        "local_attention": 12,
        "global_rope_theta": 160000.0,
        "local_rope_theta": 10000.0,
        "classifier_pooling": "mean",
        "classifier_activation": "gelu",
        "pad_token_id": 0,
        "bos_token_id": 2,
        "cls_token_id": 2,
        "eos_token_id": 3,
        "sep_token_id": 3,
    },
    vocabularies.modernbert,
    "PreTrainedTokenizerFast",
    vocabularies.BRACKETS,
    ["input_ids", "attention_mask"],
    ("Wqkv",),
)
DEBERTA = Family(
    "DeBERTa-v2",
    "DebertaV2ForSequenceClassification",
    None,
    _SIZES
    | {
        "model_type": "deberta-v2",
        "hidden_act": "gelu",
        "max_position_embeddings": 256,
        "type_vocab_size": 0,
        "layer_norm_eps": 1e-7,
        "relative_attention": True,
        "max_relative_positions": -1,
        "position_buckets": 16,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_biased_input": False,
        "pooler_hidden_act": "gelu",
        "pooler_hidden_size": 32,
        "pad_token_id": 0,
    },
    vocabularies.deberta,
    "DebertaV2Tokenizer",
    vocabularies.BRACKETS,
    None,
    ("query_proj", "value_proj"),
)
