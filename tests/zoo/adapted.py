"""Bases and their LoRA adapters, each in a folder of its own: named with --adapter, or the adapter
alone, as peft, NeMo and sentence-transformers save it."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

import torch

from exporter.pipeline import ExportArgs
from tests.zoo import bert, llama, sentence_files
from tests.zoo.adapters import (
    ADAPTER,
    BASE,
    RANK,
    absolute_base,
    adapter_cast,
    adapter_config,
    adapter_pickled,
    adapter_weights,
    lora,
    lora_apart,
)
from tests.zoo.case import Case
from tests.zoo.families import MODERNBERT, XLM_ROBERTA, Family
from tests.zoo.folders import ABSENT, edited, file, tokenizer_config
from tests.zoo.llama_witness import LlamaEmbedder, LlamaRanker
from tests.zoo.weights import Step, cast, drawn, renamed
from tests.zoo.witness import BareEmbedder, Embedder, Making, Ranker, Witness, adapted


class _Saved(TypedDict):
    """A head that is saved whole beside the adapter, and the modules that peft looks for it in."""

    whole: Mapping[str, torch.Tensor]
    modules_to_save: list[str]


_NAMED: dict[str, Any] = {"source": BASE, "args": ExportArgs(adapter=ADAPTER)}
_ALONE: dict[str, Any] = {"source": ADAPTER, "args": ExportArgs()}
_VALUE = "base_model.model.bert.encoder.layer.1.attention.self.value"
_HEAD = {"classifier.weight": drawn(1, 32, seed=90), "classifier.bias": drawn(1, seed=91)}
_SAVED: _Saved = {"whole": _HEAD, "modules_to_save": ["classifier", "score"]}
_SCORE: _Saved = {
    "whole": {"score.weight": drawn(1, 32, seed=90)},
    "modules_to_save": ["score"],
}
_FEATURES = "FEATURE_EXTRACTION"
_CAMEL = ("query", "value")


def _apart(make: Making) -> Making:
    return adapted(make, BASE, ADAPTER)


def _by_itself(make: Making) -> Making:
    """The loader that is given the adapter's folder alone, and finds the base."""

    def made(directory: Path) -> Witness:
        return make(directory / ADAPTER)

    return made


def _ranker(layout: str, *steps: Step, **expected: Any) -> Case:
    """A BERT cross-encoder, its adapter named unless `expected` says otherwise."""
    expected = {"witness": _apart(Ranker), **_NAMED, **expected}
    return bert.ranker(layout, *steps, **expected)


def _refused(layout: str, *steps: Step, says: str, **expected: Any) -> Case:
    return _ranker(layout, lora_apart(*_CAMEL), *steps, refused=says, **expected)


def _checkpoints(directory: Path) -> None:
    """The adapter's folder as a trainer leaves it: one for each step that it saved."""
    kept = directory / "kept"
    (directory / ADAPTER).rename(kept)
    for step in (5, 10):
        shutil.copytree(kept, directory / ADAPTER / f"checkpoint-{step}")


def _setting(key: str, value: Any) -> Case:
    """A setting that changes scores in a way that is not implemented, or cannot be meant."""
    return _refused(f"adapter with {key} = {value!r}", adapter_config(**{key: value}), says=key)


def _embedder(layout: str, *steps: Step, **expected: Any) -> Case:
    expected = {"witness": _apart(Embedder), **_NAMED, **expected}
    return bert.embedder(layout, *steps, **expected)


_RANKERS = (
    _ranker("--adapter", lora_apart(*_CAMEL)),
    _ranker("--adapter, rsLoRA", lora_apart(*_CAMEL, **_SAVED, use_rslora=True, lora_alpha=6.5)),
    _ranker(
        "--adapter, fan_in_fan_out, which peft unsets", lora_apart(*_CAMEL, fan_in_fan_out=True)
    ),
    _ranker(
        "--adapter in bf16, the base too",
        cast(torch.bfloat16),
        lora_apart(*_CAMEL),
        adapter_cast(torch.bfloat16),
    ),
    _ranker(
        "--adapter of every linear layer and the words' embeddings",
        lora_apart(*_CAMEL, "key", "dense", "word_embeddings"),
    ),
    _ranker(
        "--adapter, older keys",
        lora_apart(
            *_CAMEL,
            alpha_pattern=ABSENT,
            rank_pattern=ABSENT,
            use_dora=ABSENT,
            lora_bias=ABSENT,
            use_rslora=None,
            init_lora_weights=None,
            layers_to_transform=None,
            target_parameters=[],
            layer_replication=[],
        ),
    ),
    _ranker(
        "adapter alone, its base named by a path from there",
        lora_apart(*_CAMEL, **_SAVED),
        **_ALONE,
    ),
    _ranker(
        "adapter alone, CrossEncoder 6",
        sentence_files.cross_encoder(activation_fn="torch.nn.modules.linear.Identity"),
        lora_apart(*_CAMEL, **_SAVED, takes_all=True),
        absolute_base,
        witness=_by_itself(Ranker),
        **_ALONE,
    ),
    _ranker(
        "--adapter, the base a CrossEncoder 6 of 64 tokens",
        sentence_files.cross_encoder(),
        edited("sentence_bert_config.json", max_seq_length=64),
        lora_apart(*_CAMEL),
    ),
    _setting("use_dora", True),
    _setting("use_dora", "false"),
    _setting("bias", "all"),
    _setting("bias", "lora_only"),
    _setting("bias", None),
    _setting("rank_pattern", {"query": 8}),
    _setting("rank_pattern", None),
    _setting("alpha_pattern", {"query": 8}),
    _setting("target_parameters", ["bert.encoder.layer.0.attention.self.query.weight"]),
    _setting("layer_replication", [[0, 2], [1, 2]]),
    _setting("lora_bias", True),
    _setting("trainable_token_indices", [1, 2]),
    _setting("init_lora_weights", "pissa"),
    _setting("alora_invocation_tokens", [1]),
    _setting("peft_type", "LOHA"),
    _setting("peft_type", None),
    _setting("use_rslora", "true"),
    _setting("modules_to_save", "classifier"),
    _setting("r", None),
    _setting("r", 0),
    _setting("r", 4.0),
    _setting("lora_alpha", None),
    _setting("lora_alpha", "16"),
    _refused("adapter of another rank than r", adapter_config(r=8), says="r = 8"),
    _refused("adapter without r", adapter_config(r=ABSENT), says="r = 8"),
    _refused(
        "adapter of a larger base",
        adapter_weights(**{f"{_VALUE}.lora_A.weight": drawn(RANK, 48)}),
        says="does not fit",
    ),
    _refused(
        "adapter of a deeper base",
        adapter_weights(**{f"{_VALUE.replace('1', '7')}.lora_A.weight": drawn(RANK, 32)}),
        says="without a place",
    ),
    _refused(
        "adapter with a magnitude",
        adapter_weights(**{f"{_VALUE}.lora_magnitude_vector": drawn(32)}),
        says="lora_magnitude_vector",
    ),
    _refused(
        "adapter with half a pair",
        adapter_weights(**{f"{_VALUE}.lora_B.weight": ABSENT}),
        says="lora_A and lora_B",
    ),
    _refused(
        "adapter with one place twice",
        adapter_weights(**{f"{_VALUE.replace('bert.', '')}.lora_B.weight": drawn(32, RANK)}),
        says="for one tensor",
    ),
    _refused(
        "adapter whose saved head is not there",
        adapter_config(modules_to_save=["classifier"]),
        says="lacks classifier.bias",
    ),
    _refused(
        "adapter with a head of two labels",
        adapter_weights(**{"base_model.model.classifier.weight": drawn(2, 32)}),
        says="[2, 32]",
    ),
    _ranker(
        "--adapter, a folder of its checkpoints",
        lora_apart(*_CAMEL),
        _checkpoints,
        refused="checkpoint-10: export that",
    ),
    _refused(
        "adapter with part of a tokenizer",
        file(f"{ADAPTER}/special_tokens_map.json", {"pad_token": "[PAD]"}),
        says="special_tokens_map.json",
    ),
    _refused("adapter_model.bin only", adapter_pickled, says="adapter_model.bin"),
    _refused(
        "adapter beside a base that has one",
        lambda directory: lora(*_CAMEL)(directory / BASE),
        says="wanted one adapter",
    ),
    _refused(
        "adapter alone that names no base",
        adapter_config(base_model_name_or_path=""),
        says="names no base",
        **_ALONE,
    ),
    _ranker(
        "adapter of a classifier, the head nowhere",
        bert.folder("BertForMaskedLM"),
        lora_apart(*_CAMEL),
        refused="no classifier.weight",
    ),
    _ranker(
        "adapter of a classifier of two labels, the base a body",
        bert.folder("BertModel"),
        lora_apart(*_CAMEL, whole={**_HEAD, "classifier.weight": drawn(2, 32)}),
        refused="as the base has no classifier",
    ),
    _ranker(
        "adapter of a classifier, the base a body, its head saved",
        bert.folder("BertModel"),
        lora_apart(*_CAMEL, whole=_HEAD, modules_to_save=["classifier"]),
    ),
)
_EMBEDDERS = (
    _embedder("--adapter", sentence_files.embedder(), lora_apart(*_CAMEL, task=_FEATURES)),
    _embedder(
        "--adapter of every linear layer, the pooler too",
        sentence_files.embedder(),
        lora_apart("query", "key", "value", "dense", task=_FEATURES),
    ),
    _embedder(
        "adapter alone, sentence-transformers 6",
        sentence_files.embedder(6, pooling="cls", prompts={"query": "query: ", "document": ""}),
        lora_apart(*_CAMEL, task=_FEATURES, takes_all=True),
        absolute_base,
        witness=_by_itself(Embedder),
        **_ALONE,
    ),
    _embedder(
        "adapter alone, the base a BertForMaskedLM",
        bert.folder("BertForMaskedLM"),
        sentence_files.embedder(6),
        lora_apart(*_CAMEL, task=_FEATURES, takes_all=True),
        absolute_base,
        witness=_by_itself(Embedder),
        **_ALONE,
    ),
    _embedder(
        "adapter alone, the base a BertForMaskedLM, --pooling cls",
        bert.folder("BertForMaskedLM"),
        lora_apart(*_CAMEL, task=_FEATURES),
        witness=_apart(lambda directory: BareEmbedder(directory, "cls")),
        source=ADAPTER,
        args=ExportArgs(pooling="cls"),
    ),
    _embedder(
        "adapter alone, the base a BertForMaskedLM and no modules.json",
        bert.folder("BertForMaskedLM"),
        lora_apart(*_CAMEL, task=_FEATURES),
        refused="modules.json",
        **_ALONE,
    ),
    _embedder(
        "adapter alone, nothing beside it and no modules.json",
        lora_apart(*_CAMEL, task=_FEATURES),
        refused="modules.json",
        **_ALONE,
    ),
)
_OUT = {
    "classifier.dense.weight": drawn(32, 32, seed=92),
    "classifier.dense.bias": drawn(32, seed=93),
    "classifier.out_proj.weight": drawn(1, 32, seed=90),
    "classifier.out_proj.bias": drawn(1, seed=91),
}


def _family(family: Family, whole: dict[str, torch.Tensor], masked: str) -> tuple[Case, ...]:
    """What users of other encoders have."""
    saved: _Saved = {"whole": whole, "modules_to_save": ["classifier", "score"]}
    targets = family.projections
    named: dict[str, Any] = {"witness": _apart(Ranker), **_NAMED}
    alone = named | _ALONE
    return (
        family.ranker("--adapter, rsLoRA", lora_apart(*targets, **saved, use_rslora=True), **named),
        family.ranker(
            f"adapter alone, the base a {masked}",
            family.folder(masked),
            renamed(r"lm_head\.decoder\.weight", "roberta.embeddings.word_embeddings.weight"),
            lora_apart(*targets, **saved, takes_all=True),
            absolute_base,
            **alone,
        ),
        family.ranker(
            "adapter with use_dora",
            lora_apart(*targets, use_dora=True),
            **_NAMED,
            refused="use_dora",
        ),
    )


def _llama(layout: str, *steps: Step, **expected: Any) -> Case:
    return llama.ranker(layout, *steps, **{"witness": _apart(LlamaRanker), **_NAMED, **expected})


_LLAMA = (
    _llama("--adapter, rsLoRA", lora_apart("q_proj", "down_proj", use_rslora=True)),
    _llama(
        "adapter alone, as NeMo saves it",
        lora_apart("q_proj", "v_proj", **_SCORE),
        file(f"{ADAPTER}/automodel_peft_config.json", {"dim": RANK, "alpha": 2 * RANK}),
        **_ALONE,
    ),
    _llama(
        "adapter alone with all but the weights, a chat template too",
        tokenizer_config(chat_template=llama.chat("Query: {query}\nDocument: {passage}")),
        lora_apart("q_proj", "v_proj", takes_all=True),
        **_ALONE,
    ),
    _llama(
        "adapter of a reranker, the base an embedder, its head saved",
        llama.folder("LlamaBidirectionalModel"),
        lora_apart("q_proj", "v_proj", **_SCORE),
    ),
    _llama(
        "adapter of a reranker, the base an embedder, the head nowhere",
        llama.folder("LlamaBidirectionalModel"),
        lora_apart("q_proj", "v_proj"),
        refused="no score.weight",
    ),
    llama.embedder(
        "adapter alone, as NeMo saves it",
        lora_apart("q_proj", "up_proj", task=_FEATURES),
        witness=_apart(LlamaEmbedder),
        **_ALONE,
    ),
)
CASES = (
    *_RANKERS,
    *_EMBEDDERS,
    *_family(XLM_ROBERTA, _OUT, "XLMRobertaForMaskedLM"),
    *_family(MODERNBERT, _HEAD, "ModernBertForMaskedLM"),
    *_LLAMA,
)
