"""BERT cross-encoders, as ms-marco-MiniLM."""

from pathlib import Path

import torch
from tokenizers import Tokenizer

from tests.zoo import harmless, sentence_files, vocabularies
from tests.zoo.adapters import lora, lora_alone, lora_inside
from tests.zoo.bert import (
    CUT,
    ONE_LABEL,
    PAD,
    PAIR_TEMPLATE,
    folder,
    ranker,
)
from tests.zoo.folders import (
    ABSENT,
    body_inside,
    changed_tokenizer,
    config,
    edited,
    extra_token,
    file,
    inside,
    linked,
    tokenizer_config,
    without,
)
from tests.zoo.sentence_files import dense
from tests.zoo.texts import EXTRA_TOKEN
from tests.zoo.weights import (
    COMPILED,
    FILE,
    UNCOMPILED,
    cast,
    changed,
    joined,
    pickled,
    renamed,
    sharded,
    split,
    stale_shards,
)
from tests.zoo.witness import Embedder, Ranker, adapted, copied

_CROSS_ENCODER_6 = sentence_files.cross_encoder()
_OLD = sentence_files.embedder()
_TYPES = "bert.embeddings.token_type_embeddings.weight"


def _vocabulary_text(directory: Path) -> None:
    """vocab.txt in place of tokenizer.json."""
    words = Tokenizer.from_file(str(directory / "tokenizer.json")).get_vocab()
    lines = "\n".join(sorted(words, key=words.__getitem__)) + "\n"
    (directory / "vocab.txt").write_text(lines, encoding="utf-8")
    (directory / "tokenizer.json").unlink()


CASES = (
    ranker("fp32"),
    ranker("bf16", cast(torch.bfloat16)),
    ranker("fp16", cast(torch.float16)),
    ranker("sharded with an index", sharded),
    ranker("one file beside stale shards", stale_shards),
    ranker("shards without an index", split, refused="model.safetensors.index.json"),
    ranker("pytorch_model.bin only", pickled, refused="pytorch_model.bin"),
    ranker("no weights", without(FILE), refused="found no weights"),
    ranker(
        "parent folder of checkpoints", inside("checkpoint-500"), refused="found no config.json"
    ),
    ranker(
        "adapter beside the base",
        lora("query", "value"),
        witness=adapted(Ranker),
    ),
    ranker("adapter alone", lora_alone("query", "value"), refused="base_model_name_or_path"),
    ranker("adapter in a folder below", lora_inside("adapter", "query", "value")),
    ranker(
        "unmerged lora names",
        renamed(r"query\.weight", "query.base_layer.weight"),
        refused="unexpected: bert.",
    ),
    ranker("_orig_mod. before all names", COMPILED, witness=copied(Ranker, UNCOMPILED)),
    ranker(
        "LayerNorm.gamma and beta",
        renamed(r"LayerNorm\.weight", "LayerNorm.gamma"),
        renamed(r"LayerNorm\.bias", "LayerNorm.beta"),
    ),
    ranker(
        "position_ids in the weights",
        joined({"bert.embeddings.position_ids": torch.arange(256).unsqueeze(0)}),
    ),
    ranker("extra token, resized", extra_token(EXTRA_TOKEN, resized=True)),
    ranker(
        "extra token, not resized",
        extra_token(EXTRA_TOKEN, resized=False),
        refused="vocab_size",
    ),
    ranker("vocab.txt only", _vocabulary_text),
    ranker(
        "truncation and padding in tokenizer.json", changed_tokenizer(truncation=CUT, padding=PAD)
    ),
    ranker(
        "truncation to the left in tokenizer.json",
        changed_tokenizer(truncation=CUT | {"direction": "Left"}),
        refused="truncation",
    ),
    ranker("links, as in the hub's cache", linked),
    ranker(
        "tokenizer_class PreTrainedTokenizerFast",
        tokenizer_config(tokenizer_class="PreTrainedTokenizerFast"),
    ),
    ranker("tokenizer_class absent", tokenizer_config(tokenizer_class=ABSENT)),
    ranker(
        "vocab.txt only, cased",
        folder(
            "BertForSequenceClassification", vocabularies.word_piece(lowercase=False), **ONE_LABEL
        ),
        tokenizer_config(do_lower_case=False),
        _vocabulary_text,
    ),
    ranker(
        "sentence_bert_config.json without modules.json",
        file("sentence_bert_config.json", {"max_seq_length": 64, "do_lower_case": False}),
    ),
    ranker(
        "CrossEncoder 6, in 0_Transformer",
        _CROSS_ENCODER_6,
        body_inside("0_Transformer"),
    ),
    ranker("padding_side left", tokenizer_config(padding_side="left")),
    ranker(
        "truncation_side left", tokenizer_config(truncation_side="left"), refused="truncation_side"
    ),
    ranker("model_max_length 64", tokenizer_config(model_max_length=64)),
    ranker("no model_max_length", tokenizer_config(model_max_length=ABSENT)),
    ranker("max_len 64", tokenizer_config(model_max_length=ABSENT, max_len=64)),
    ranker("model_max_length 10^30", tokenizer_config(model_max_length=10**30)),
    ranker(
        "model_input_names without token types",
        tokenizer_config(model_input_names=["input_ids", "attention_mask"]),
    ),
    ranker(
        "cased",
        folder(
            "BertForSequenceClassification", vocabularies.word_piece(lowercase=False), **ONE_LABEL
        ),
        tokenizer_config(do_lower_case=False),
    ),
    ranker(
        "do_lower_case unlike tokenizer.json",
        tokenizer_config(do_lower_case=False),
    ),
    ranker("one label by num_labels", config(id2label=ABSENT, label2id=ABSENT, num_labels=1)),
    ranker(
        "two labels",
        config(id2label={"0": "no", "1": "yes"}, label2id={"no": 0, "yes": 1}),
        changed("classifier.weight", lambda w: torch.cat([w, -w])),
        changed("classifier.bias", lambda b: torch.cat([b, -b])),
    ),
    ranker(
        "three labels",
        config(id2label={"0": "a", "1": "b", "2": "c"}),
        changed("classifier.weight", lambda w: torch.cat([w, -w, w])),
        changed("classifier.bias", lambda b: torch.cat([b, -b, b])),
        refused="num_labels = 3",
    ),
    ranker("no labels named", config(id2label=ABSENT, label2id=ABSENT), refused="num_labels = 2"),
    ranker(
        "keys left at their defaults",
        config(hidden_act=ABSENT, type_vocab_size=ABSENT, layer_norm_eps=ABSENT),
    ),
    ranker(
        "keys and files that change nothing",
        config(
            **harmless.KEYS,
            position_embedding_type="absolute",
            directionality="bidi",
            is_decoder=False,
            add_cross_attention=False,
            chunk_size_feed_forward=0,
            pooler_fc_size=768,
        ),
        tokenizer_config(
            clean_up_tokenization_spaces=True,
            tokenize_chinese_chars=True,
            strip_accents=None,
            do_basic_tokenize=True,
            never_split=None,
            max_length=16,
            stride=0,
            truncation_strategy="longest_first",
            truncation_side="right",
            pad_to_multiple_of=None,
            pad_token_type_id=0,
            name_or_path="somebody/base",
        ),
        *harmless.FILES,
    ),
    ranker("model_max_length above the positions", tokenizer_config(model_max_length=512)),
    ranker(
        "split_special_tokens",
        tokenizer_config(split_special_tokens=True),
        refused="tokens",
    ),
    ranker(
        "a token in tokenizer_config alone",
        tokenizer_config(additional_special_tokens=[EXTRA_TOKEN]),
        refused="vocab_size",
    ),
    ranker(
        "weights of another head kept",
        joined({"cls.predictions.bias": torch.zeros(4)}),
    ),
    ranker("gelu_new", config(hidden_act="gelu_new")),
    ranker("relu", config(hidden_act="relu")),
    ranker("silu", config(hidden_act="silu"), refused="hidden_act"),
    ranker(
        "relative positions",
        config(position_embedding_type="relative_key"),
        refused="position_embedding_type",
    ),
    ranker(
        "one token type, two fed",
        config(type_vocab_size=1),
        changed(_TYPES, lambda w: w[:1]),
        refused="type_vocab_size = 1",
    ),
    ranker(
        "one token type, none fed",
        config(type_vocab_size=1),
        changed(_TYPES, lambda w: w[:1]),
        tokenizer_config(model_input_names=["input_ids", "attention_mask"]),
    ),
    ranker(
        "three token types, two fed",
        config(type_vocab_size=3),
        changed(_TYPES, lambda w: torch.cat([w, w[:1]])),
    ),
    ranker("temperature", config(temperature=2.0), refused="temperature"),
    ranker(
        "quantization_config",
        config(quantization_config={"quant_method": "bitsandbytes"}),
        refused="quantization_config",
    ),
    ranker("no architectures", config(architectures=None), refused="name the one"),
    ranker("hidden_act null", config(hidden_act=None), refused="cannot read config.json"),
    ranker("is_causal true", config(is_causal=True), refused="is_causal"),
    ranker(
        "two architectures",
        config(architectures=["BertForSequenceClassification", "BertModel"]),
        refused="BertForSequenceClassification, BertModel",
    ),
    ranker(
        "flat scores",
        changed("classifier.weight", lambda w: w * 1e-4),
    ),
    ranker(
        "remote code named and not needed",
        config(auto_map={"AutoModel": "model.BertModel"}),
        file("model.py", "raise SystemExit('ran')\n"),
    ),
    ranker(
        "CrossEncoder 3, Identity",
        config(sbert_ce_default_activation_function="torch.nn.modules.linear.Identity"),
    ),
    ranker(
        "CrossEncoder 4, Sigmoid",
        config(
            sentence_transformers={
                "activation_fn": "torch.nn.modules.activation.Sigmoid",
                "version": "4.1.0",
            }
        ),
    ),
    ranker(
        "CrossEncoder 4, Identity",
        config(
            sentence_transformers={
                "activation_fn": "torch.nn.modules.linear.Identity",
                "version": "4.1.0",
            }
        ),
    ),
    ranker("CrossEncoder 6, Sigmoid", _CROSS_ENCODER_6),
    ranker(
        "CrossEncoder 6, Identity",
        sentence_files.cross_encoder(activation_fn="torch.nn.modules.linear.Identity"),
    ),
    ranker(
        "CrossEncoder 6, max_seq_length 64",
        _CROSS_ENCODER_6,
        edited("sentence_bert_config.json", max_seq_length=64),
    ),
    ranker(
        "CrossEncoder 6, do_lower_case",
        folder(
            "BertForSequenceClassification", vocabularies.word_piece(lowercase=False), **ONE_LABEL
        ),
        tokenizer_config(do_lower_case=False),
        _CROSS_ENCODER_6,
        edited("sentence_bert_config.json", do_lower_case=True),
    ),
    ranker(
        "CrossEncoder 6, a Dense behind",
        sentence_files.cross_encoder(modules=("Transformer", "Dense")),
        dense("1_Dense", 1, 1, module_input_name="scores", module_output_name="scores"),
        refused="Dense",
    ),
    ranker(
        "CrossEncoder 6, default prompt",
        sentence_files.cross_encoder(prompts={"web": "A web search: "}, default_prompt_name="web"),
        refused="default_prompt_name",
    ),
    ranker(
        "CrossEncoder 6, prompts and no default",
        sentence_files.cross_encoder(prompts={"web": "A web search: "}),
    ),
    ranker(
        "CrossEncoder 6, no transformer_task",
        _CROSS_ENCODER_6,
        edited("sentence_bert_config.json", transformer_task=ABSENT),
        refused="no transformer_task",
    ),
    ranker(
        "CrossEncoder 6, processing_kwargs",
        _CROSS_ENCODER_6,
        edited("sentence_bert_config.json", processing_kwargs={"text": {"max_length": 16}}),
        refused="processing_kwargs",
    ),
    ranker(
        "CrossEncoder 6, config_kwargs",
        _CROSS_ENCODER_6,
        edited("sentence_bert_config.json", config_kwargs={"num_hidden_layers": 1}),
        refused="config_kwargs",
    ),
    ranker("chat template", tokenizer_config(chat_template=PAIR_TEMPLATE), refused="chat_template"),
    ranker(
        "chat_template.jinja", file("chat_template.jinja", PAIR_TEMPLATE), refused="chat_template"
    ),
    ranker("modules.json of an embedder", _OLD, witness=Embedder, refused="modules.json"),
)
