"""llama_bidirec: llama-nemotron's rerankers and embedders, and what NeMo makes of them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from tests.zoo import harmless, sentence_files, vocabularies
from tests.zoo.adapters import lora, lora_alone, lora_inside
from tests.zoo.bert import CUT, TWO_LABELS
from tests.zoo.case import Case
from tests.zoo.folders import (
    ABSENT,
    changed_tokenizer,
    config,
    edited,
    extra_token,
    file,
    inside,
    tokenizer_config,
    write_json,
    write_tokenizer,
)
from tests.zoo.llama_witness import LlamaEmbedder, LlamaRanker
from tests.zoo.sentence_files import MEAN, dense, messages
from tests.zoo.texts import EXTRA_TOKEN
from tests.zoo.weights import (
    COMPILED,
    FILE,
    UNCOMPILED,
    Step,
    cast,
    changed,
    drawn,
    joined,
    pickled,
    renamed,
    save,
    seeded,
    sharded,
    split,
    stale_shards,
)
from tests.zoo.witness import Making, adapted, copied

_RANKS, _EMBEDS = "LlamaBidirectionalForSequenceClassification", "LlamaBidirectionalModel"
_LLAMA_3 = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
LLAMA: dict[str, Any] = {
    "model_type": "llama_bidirec",
    "hidden_act": "silu",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 256,
    "pooling": "avg",
    "rope_theta": 500000.0,
    "rope_scaling": _LLAMA_3,
}
_PROMPT = "question:{query} \n \n passage:{passage}"
_OTHER_PROMPT = "Query: {query}\nDocument: {passage}"


def folder(
    architecture: str, words: Callable[[], Tokenizer] = vocabularies.llama, **changes: Any
) -> Step:
    """Weights of transformers' LlamaModel, with a head where the architecture has one."""

    def step(directory: Path) -> None:
        tokenizer = words()
        settings = LLAMA | {"architectures": [architecture]}
        settings |= {"vocab_size": tokenizer.get_vocab_size()} | changes
        write_tokenizer(
            directory,
            tokenizer,
            "PreTrainedTokenizerFast",
            vocabularies.LLAMA,
            model_input_names=["input_ids", "attention_mask"],
        )
        known = {k: v for k, v in settings.items() if k not in ("architectures", "model_type")}
        tensors = seeded("LlamaModel", known)
        if architecture == _RANKS:
            tensors = {f"model.{name}": tensor for name, tensor in tensors.items()}
            tensors["score.weight"] = drawn(1, settings["hidden_size"])
            settings |= {"id2label": {"0": "LABEL_0"}, "temperature": 1.0}
            settings |= {k: v for k, v in changes.items() if k == "temperature"}
        write_json(directory / "config.json", settings)
        save(tensors, directory / FILE)

    return step


def ranker(
    layout: str,
    *steps: Step,
    witness: Making = LlamaRanker,
    changes: Mapping[str, Any] | None = None,
    **expected: Any,
) -> Case:
    """A reranker; `changes` are in config.json before weights are made."""
    base = folder(_RANKS, **dict(changes or {}))
    return Case("llama_bidirec reranker", layout, (base, *steps), witness, **expected)


def embedder(
    layout: str,
    *steps: Step,
    witness: Making = LlamaEmbedder,
    changes: Mapping[str, Any] | None = None,
    **expected: Any,
) -> Case:
    """An embedder; `changes` are in config.json before weights are made."""
    base = folder(_EMBEDS, **dict(changes or {}))
    return Case("llama_bidirec embedder", layout, (base, *steps), witness, **expected)


def chat(prompt: str) -> str:
    """A chat template that renders a prompt with the roles query and document."""
    chosen = '{{ (messages | selectattr("role", "eq", "ROLE") | first).content }}'
    query, passage = (chosen.replace("ROLE", role) for role in ("query", "document"))
    return prompt.replace("{query}", query).replace("{passage}", passage)


def _training(**facts: Any) -> Step:
    """training.json as the recipe writes it."""
    content = {
        "prompt_template": _PROMPT,
        "rerank_max_length": 256,
        "base_model": "nvidia/llama-nemotron-rerank-1b-v2",
        "steps": 10,
        "seed": 0,
    }
    return file("training.json", content | facts)


def _adds_eos(directory: Path) -> None:
    vocabularies.llama(adds_eos=True).save(str(directory / "tokenizer.json"))


def _dropout(directory: Path) -> None:
    words = vocabularies.llama()
    words.model.dropout = 0.01
    words.save(str(directory / "tokenizer.json"))


_ROPE_5 = {"rope_theta": 500000.0, **_LLAMA_3}
_ROPE_OLD = {"type" if k == "rope_type" else k: v for k, v in _LLAMA_3.items()}
_PROMPTS = {"query": "query: ", "document": "passage: "}

_RANKERS = (
    ranker("fp32"),
    ranker("bf16", cast(torch.bfloat16)),
    ranker("fp16", cast(torch.float16)),
    ranker("sharded with an index", sharded),
    ranker("shards without an index", split, refused="model.safetensors.index.json"),
    ranker("one file beside stale shards", stale_shards),
    ranker("pytorch_model.bin only", pickled, refused="pytorch_model.bin"),
    ranker("NeMo's parent folder", inside("epoch_0_step_10"), refused="found no config.json"),
    ranker(
        "NeMo's consolidated save",
        sharded,
        config(auto_map={"AutoModelForSequenceClassification": f"model.{_RANKS}"}),
        file("model.py", "raise SystemExit('ran')\n"),
    ),
    ranker(
        "adapter beside the base",
        lora("q_proj", "v_proj"),
        witness=adapted(LlamaRanker),
    ),
    ranker("adapter alone", lora_alone("q_proj", "v_proj"), refused="base_model_name_or_path"),
    ranker("adapter in a folder below", lora_inside("adapter", "q_proj")),
    ranker(
        "unmerged lora names",
        renamed(r"q_proj\.weight", "q_proj.base_layer.weight"),
        refused="missing: model.layers.0.self_attn.q_proj.weight",
    ),
    ranker("_orig_mod. before all names", COMPILED, witness=copied(LlamaRanker, UNCOMPILED)),
    ranker("lm_head.weight kept", joined({"lm_head.weight": "model.embed_tokens.weight"})),
    ranker("extra token, resized", extra_token(EXTRA_TOKEN, resized=True)),
    ranker("chat template equal", tokenizer_config(chat_template=chat(_PROMPT))),
    ranker("chat template other", tokenizer_config(chat_template=chat(_OTHER_PROMPT))),
    ranker("chat_template.jinja other", file("chat_template.jinja", chat(_OTHER_PROMPT))),
    ranker("chat template empty", tokenizer_config(chat_template=""), refused="chat_template"),
    ranker("chat template null", tokenizer_config(chat_template=None)),
    ranker(
        "chat templates by name",
        tokenizer_config(
            chat_template=[
                {"name": "default", "template": chat(_OTHER_PROMPT)},
                {"name": "tool_use", "template": chat(_PROMPT)},
            ]
        ),
    ),
    ranker(
        "chat templates by name, none of them default",
        tokenizer_config(chat_template=[{"name": "rerank", "template": chat(_OTHER_PROMPT)}]),
        refused="one named default",
    ),
    ranker(
        "chat_template.jinja other, tokenizer_config's equal",
        tokenizer_config(chat_template=chat(_PROMPT)),
        file("chat_template.jinja", chat(_OTHER_PROMPT)),
    ),
    ranker(
        "chat_template.jinja equal, tokenizer_config's other",
        tokenizer_config(chat_template=chat(_OTHER_PROMPT)),
        file("chat_template.jinja", chat(_PROMPT)),
    ),
    ranker(
        "CrossEncoder 6, max_seq_length 64",
        sentence_files.cross_encoder(),
        edited("sentence_bert_config.json", max_seq_length=64),
    ),
    ranker(
        "CrossEncoder 6, texts as messages",
        sentence_files.cross_encoder(),
        edited("sentence_bert_config.json", modality_config=messages("logits")),
        tokenizer_config(chat_template=chat(_OTHER_PROMPT)),
    ),
    ranker("no model_input_names", tokenizer_config(model_input_names=ABSENT)),
    ranker(
        "pad token past the vocabulary",
        extra_token("[PAD]", resized=False),
        tokenizer_config(pad_token="[PAD]"),
        edited("special_tokens_map.json", pad_token="[PAD]"),
        config(pad_token_id=vocabularies.llama().get_vocab_size()),
    ),
    ranker("training.json equal", _training()),
    ranker("training.json without a prompt", _training(prompt_template=None)),
    ranker("training.json other prompt", _training(prompt_template=_OTHER_PROMPT)),
    ranker("training.json of 64 tokens", _training(rerank_max_length=64)),
    ranker("model_max_length 64", tokenizer_config(model_max_length=64)),
    ranker("model_max_length 10^30", tokenizer_config(model_max_length=10**30)),
    ranker("max_len 64", tokenizer_config(model_max_length=ABSENT, max_len=64)),
    ranker("max_len 64 behind null", tokenizer_config(model_max_length=None, max_len=64)),
    ranker("padding_side left", tokenizer_config(padding_side="left")),
    ranker("padding_side right", tokenizer_config(padding_side="right")),
    ranker("truncation in tokenizer.json", changed_tokenizer(truncation=CUT)),
    ranker("BPE dropout in tokenizer.json", _dropout, refused="dropout"),
    ranker("tokenizer adds EOS", _adds_eos, refused="adds token"),
    ranker("pooling cls", changes={"pooling": "cls"}),
    ranker("pooling last", changes={"pooling": "last"}),
    ranker("pooling absent", config(pooling=ABSENT)),
    ranker("pooling mean", config(pooling="mean"), refused="pooling"),
    ranker("is_causal true", changes={"is_causal": True, "pooling": "last"}),
    ranker("use_bidirectional_attention false", changes={"use_bidirectional_attention": False}),
    ranker("is_causal false", changes={"is_causal": False}),
    ranker(
        "is_causal contradicted",
        config(is_causal=True, use_bidirectional_attention=True),
        refused="contradict",
    ),
    ranker("temperature 0.2", changes={"temperature": 0.2}),
    ranker(
        "rope_parameters", config(rope_theta=ABSENT, rope_scaling=ABSENT, rope_parameters=_ROPE_5)
    ),
    ranker("rope_scaling by type", config(rope_scaling=_ROPE_OLD)),
    ranker("rope_scaling null", config(rope_scaling=None)),
    ranker(
        "contradictory rope",
        config(rope_parameters=_ROPE_5 | {"rope_theta": 10000.0}),
        refused="rope_theta",
    ),
    ranker(
        "linear rope",
        config(rope_scaling={"rope_type": "linear", "factor": 2.0}),
        refused="rope_type",
    ),
    ranker("no grouped queries", changes={"num_key_value_heads": 4}),
    ranker(
        "keys left at their defaults",
        config(hidden_act=ABSENT, head_dim=ABSENT, temperature=ABSENT, pooling=ABSENT),
    ),
    ranker(
        "keys and files that change nothing",
        config(
            **harmless.KEYS,
            pretraining_tp=1,
            attention_dropout=0.0,
            bos_token_id=0,
            eos_token_id=1,
            num_labels=1,
        ),
        *harmless.FILES,
    ),
    ranker(
        "add_eos_token, which tokenizer.json does not heed", tokenizer_config(add_eos_token=True)
    ),
    ranker("biases", changes={"attention_bias": True, "mlp_bias": True}),
    ranker(
        "two labels",
        config(**TWO_LABELS),
        changed("score.weight", lambda w: torch.cat([w.flip(1), w])),
    ),
    ranker("two labels named, one row in the head", config(**TWO_LABELS), refused="num_labels = 2"),
    ranker(
        "quantization_config",
        config(quantization_config={"quant_method": "fp8"}),
        refused="quantization_config",
    ),
    ranker("vision_config", config(vision_config={"hidden_size": 32}), refused="vision"),
)
_EMBEDDERS = (
    embedder("fp32"),
    embedder("bf16", cast(torch.bfloat16)),
    embedder("sharded with an index", sharded),
    embedder("pooling cls", changes={"pooling": "cls"}),
    embedder("pooling last, is_causal true", changes={"pooling": "last", "is_causal": True}),
    embedder("pooling mean (NeMo)", config(pooling="mean"), refused="pooling"),
    embedder(
        "rope_parameters", config(rope_theta=ABSENT, rope_scaling=ABSENT, rope_parameters=_ROPE_5)
    ),
    embedder(
        "adapter beside the base",
        lora("q_proj", "v_proj", task="FEATURE_EXTRACTION"),
        witness=adapted(LlamaEmbedder),
    ),
    embedder("model_max_length 64", tokenizer_config(model_max_length=64)),
    embedder("lm_head.weight kept", joined({"lm_head.weight": "embed_tokens.weight"})),
    embedder("sentence-transformers files, its prompts", sentence_files.embedder(prompts=_PROMPTS)),
    embedder("sentence-transformers files, prompts empty", sentence_files.embedder(6)),
    embedder(
        "sentence-transformers files, prompts other",
        sentence_files.embedder(prompts={"query": "Instruct: find\nQuery: ", "document": ""}),
    ),
    embedder(
        "sentence-transformers files, a passage's prompt behind an empty document's",
        sentence_files.embedder(prompts={"query": "q: ", "document": "", "passage": "p: "}),
    ),
    embedder(
        "prompts in sentence-transformers' file alone, which nobody reads",
        file("config_sentence_transformers.json", {"prompts": {"query": "other: "}}),
    ),
    embedder(
        "sentence-transformers files, texts as messages",
        sentence_files.embedder(6),
        edited("sentence_bert_config.json", modality_config=messages("last_hidden_state")),
        tokenizer_config(chat_template="{% for m in messages %}{{ m.content }}{% endfor %}"),
        refused="modality_config",
    ),
    embedder(
        "sentence-transformers files, Normalize of tokens",
        sentence_files.embedder(6),
        file("2_Normalize/config.json", {"module_input_name": "token_embeddings"}),
        refused="module_input_name",
    ),
    embedder(
        "sentence-transformers files, prompts null",
        sentence_files.embedder(prompts={"query": None, "document": None}),
    ),
    embedder(
        "sentence-transformers files, prompts absent",
        sentence_files.embedder(),
        edited("config_sentence_transformers.json", prompts=ABSENT),
    ),
    embedder(
        "sentence-transformers files, no Normalize",
        sentence_files.embedder(modules=MEAN[:2], prompts=_PROMPTS),
    ),
    embedder(
        "sentence-transformers files, max_seq_length 64",
        sentence_files.embedder(prompts=_PROMPTS, max_seq_length=64),
    ),
    embedder(
        "sentence-transformers files, truncate_dim 8",
        sentence_files.embedder(prompts=_PROMPTS, truncate_dim=8),
        refused="truncate_dim",
    ),
    embedder(
        "sentence-transformers files, another pooling",
        sentence_files.embedder(pooling="cls", prompts=_PROMPTS),
        refused="pooling",
    ),
    embedder(
        "sentence-transformers files, Dense",
        sentence_files.embedder(modules=("Transformer", "Pooling", "Dense"), prompts=_PROMPTS),
        dense("2_Dense", 32, 16),
        refused="Dense",
    ),
)
CASES = (*_RANKERS, *_EMBEDDERS)
