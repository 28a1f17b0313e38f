"""BERT embedders, as all-MiniLM, bge and e5."""

from pathlib import Path

import torch

from tests.zoo import harmless, sentence_files, vocabularies
from tests.zoo.adapters import lora, lora_alone
from tests.zoo.bert import CUT, PAD, PAIR_TEMPLATE, embedder, folder
from tests.zoo.folders import (
    body_inside,
    changed_tokenizer,
    config,
    edited,
    file,
    tokenizer_config,
    without,
    write_tokenizer,
)
from tests.zoo.sentence_files import MEAN, dense, messages
from tests.zoo.weights import cast, changed, dropped, pickled, renamed, sharded
from tests.zoo.witness import Embedder, adapted

_OLD = sentence_files.embedder()
_NEW = sentence_files.embedder(6)


def _tokenizer_of_xlm_roberta(directory: Path) -> None:
    words = vocabularies.xlm_roberta()
    folder("BertModel", words)(directory)
    write_tokenizer(directory, words, "XLMRobertaTokenizer", vocabularies.ANGLES)


def _stale_root(directory: Path) -> None:
    """A body in 0_Transformer, as modules.json says, and an older one beside it."""
    body_inside("0_Transformer")(directory)
    folder("BertModel", layer_norm_eps=0.5)(directory)


CASES = (
    embedder("no sentence-transformers files", refused="found no modules.json"),
    embedder("sentence-transformers 3, mean", _OLD),
    embedder("sentence-transformers 3, cls", sentence_files.embedder(pooling="cls")),
    embedder("sentence-transformers 5, mean", sentence_files.embedder(5)),
    embedder("sentence-transformers 6, mean", _NEW),
    embedder("sentence-transformers 6, cls", sentence_files.embedder(6, pooling="cls")),
    embedder("0_Transformer", _OLD, body_inside("0_Transformer")),
    embedder("0_Transformer beside an older body", _OLD, _stale_root),
    embedder(
        "0_Transformer, an adapter in it",
        _OLD,
        lora("query", "value", task="FEATURE_EXTRACTION"),
        body_inside("0_Transformer"),
        witness=adapted(Embedder),
    ),
    embedder("no pooler in the weights", dropped("pooler."), _OLD),
    embedder("no Normalize", sentence_files.embedder(modules=MEAN[:2])),
    embedder("bf16", cast(torch.bfloat16), _OLD),
    embedder("fp16", cast(torch.float16), _OLD),
    embedder("sharded with an index", sharded, _OLD),
    embedder("pytorch_model.bin only", pickled, _OLD, refused="pytorch_model.bin"),
    embedder("names of a model with a head", renamed("^", "bert."), _OLD),
    embedder(
        "adapter beside the base",
        lora("query", "value", task="FEATURE_EXTRACTION"),
        _OLD,
        witness=adapted(Embedder),
    ),
    embedder(
        "adapter alone",
        lora_alone("query", "value", task="FEATURE_EXTRACTION"),
        _OLD,
        refused="base_model_name_or_path",
    ),
    embedder("max_seq_length 64", sentence_files.embedder(max_seq_length=64)),
    embedder(
        "max_seq_length above model_max_length",
        tokenizer_config(model_max_length=64),
        sentence_files.embedder(max_seq_length=128),
    ),
    embedder(
        "keys and files that change nothing",
        config(**harmless.KEYS),
        sentence_files.embedder(max_seq_length=128, similarity_fn_name="cosine"),
        *harmless.FILES,
    ),
    embedder("model_max_length 64", tokenizer_config(model_max_length=64), _NEW),
    embedder("model_max_length 10^30", tokenizer_config(model_max_length=10**30), _NEW),
    embedder(
        "do_lower_case",
        _OLD,
        edited("sentence_bert_config.json", do_lower_case=True),
    ),
    embedder(
        "prompts for queries and documents",
        sentence_files.embedder(6, prompts={"query": "query: ", "document": "passage: "}),
    ),
    embedder(
        "prompt named passage",
        sentence_files.embedder(prompts={"query": "query: ", "passage": "passage: "}),
    ),
    embedder(
        "prompt named corpus",
        sentence_files.embedder(prompts={"query": "query: ", "corpus": "passage: "}),
    ),
    embedder("prompt for queries only", sentence_files.embedder(prompts={"query": "Find: "})),
    embedder(
        "prompts null",
        sentence_files.embedder(prompts={"query": None, "document": None}),
    ),
    embedder(
        "prompts absent", sentence_files.embedder(), without("config_sentence_transformers.json")
    ),
    embedder(
        "default prompt of queries",
        sentence_files.embedder(prompts={"query": "Find: "}, default_prompt_name="query"),
    ),
    embedder(
        "default prompt of nothing",
        sentence_files.embedder(
            6, prompts={"query": "Find: ", "plain": ""}, default_prompt_name="plain"
        ),
    ),
    embedder(
        "default prompt STS",
        sentence_files.embedder(prompts={"STS": "Alike: "}, default_prompt_name="STS"),
        refused="default_prompt_name",
    ),
    embedder(
        "include_prompt false",
        _OLD,
        edited("1_Pooling/config.json", include_prompt=False),
        refused="include_prompt",
    ),
    embedder("last token", sentence_files.embedder(pooling="lasttoken")),
    embedder(
        "two poolings",
        sentence_files.embedder(pooling=["mean", "max"]),
        refused="mean_tokens, max_tokens",
    ),
    embedder(
        "Dense",
        sentence_files.embedder(modules=("Transformer", "Pooling", "Dense")),
        dense("2_Dense", 32, 16),
    ),
    embedder(
        "Dense with Tanh, LayerNorm, Normalize",
        sentence_files.embedder(
            6, modules=("Transformer", "Pooling", "Dense", "LayerNorm", "Normalize")
        ),
        dense("2_Dense", 32, 16, activation_function="torch.nn.modules.activation.Tanh"),
        sentence_files.layer_norm("3_LayerNorm", 16),
    ),
    embedder(
        "two Dense of other sizes",
        sentence_files.embedder(6, modules=("Transformer", "Pooling", "Dense", "Dense")),
        dense("2_Dense", 32, 48, bias=False, activation_function="torch.nn.Identity"),
        dense("3_Dense", 32, 16),
        refused="takes vectors of 32 components",
    ),
    embedder(
        "Dense with an activation of one's own",
        sentence_files.embedder(6, modules=("Transformer", "Pooling", "Dense")),
        dense("2_Dense", 32, 16, activation_function="mine.Swish"),
        refused="activation_function",
    ),
    embedder(
        "Dense with a residual",
        sentence_files.embedder(6, modules=("Transformer", "Pooling", "Dense")),
        dense("2_Dense", 32, 16, use_residual=True),
        refused="use_residual",
    ),
    embedder(
        "Dense of the tokens",
        sentence_files.embedder(6, modules=("Transformer", "Pooling", "Dense")),
        dense("2_Dense", 32, 16, module_input_name="token_embeddings"),
        refused="module_input_name",
    ),
    embedder("truncate_dim 8", sentence_files.embedder(6, truncate_dim=8), refused="truncate_dim"),
    embedder(
        "query_length 16",
        _NEW,
        edited("sentence_bert_config.json", query_length=16),
        refused="query_length",
    ),
    embedder(
        "config_kwargs",
        _NEW,
        edited("sentence_bert_config.json", config_kwargs={"num_hidden_layers": 1}),
        refused="config_kwargs",
    ),
    embedder(
        "model_type SparseEncoder",
        sentence_files.embedder(6, model_type="SparseEncoder"),
        refused="model_type",
    ),
    embedder(
        "modality_config, the layer before the last",
        _NEW,
        edited(
            "sentence_bert_config.json",
            modality_config={
                "text": {"method": "forward", "method_output_name": ["hidden_states", -2]}
            },
        ),
        refused="modality_config",
    ),
    embedder(
        "modality_config, texts as messages",
        _NEW,
        edited("sentence_bert_config.json", modality_config=messages("last_hidden_state")),
        tokenizer_config(chat_template="{% for m in messages %}{{ m.content }}{% endfor %}"),
        refused="modality_config",
    ),
    embedder(
        "model_kwargs that change nothing",
        _NEW,
        edited(
            "sentence_bert_config.json",
            model_kwargs={"attn_implementation": "sdpa", "add_pooling_layer": False},
            config_kwargs={"trust_remote_code": True},
        ),
    ),
    embedder(
        "Normalize of tokens",
        _NEW,
        file("2_Normalize/config.json", {"module_input_name": "token_embeddings"}),
        refused="module_input_name",
    ),
    embedder(
        "no pooling named", _OLD, edited("1_Pooling/config.json", pooling_mode_mean_tokens=False)
    ),
    embedder("model_type null", sentence_files.embedder(6, model_type=None), refused="model_type"),
    embedder(
        "no norm in the weights",
        _OLD,
        dropped("embeddings.LayerNorm"),
        refused="missing: embeddings",
    ),
    embedder("pooling_mode as a list", sentence_files.embedder(6, pooling=["mean"])),
    embedder(
        "tokenizer_args of 16 tokens",
        _OLD,
        edited("sentence_bert_config.json", tokenizer_args={"model_max_length": 16}),
        refused="tokenizer_args",
    ),
    embedder("chat template that is not read", _NEW, tokenizer_config(chat_template=PAIR_TEMPLATE)),
    embedder(
        "one token type, zeros fed",
        config(type_vocab_size=1),
        changed("embeddings.token_type_embeddings.weight", lambda w: w[:1]),
        _OLD,
    ),
    embedder(
        "BertForMaskedLM",
        _OLD,
        config(architectures=["BertForMaskedLM"]),
        refused="BertForMaskedLM",
    ),
    embedder(
        "truncation_side left",
        tokenizer_config(truncation_side="left"),
        _OLD,
        refused="truncation_side",
    ),
    embedder(
        "truncation and padding in tokenizer.json",
        changed_tokenizer(truncation=CUT, padding=PAD),
        _OLD,
    ),
    embedder("tokenizer of XLM-R", _tokenizer_of_xlm_roberta, _OLD),
    embedder(
        "model_input_names without token types",
        tokenizer_config(model_input_names=["input_ids", "attention_mask"]),
        _OLD,
    ),
)
