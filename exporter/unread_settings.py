"""Check every file and key of a checkpoint's folder: honoured, without effect, or refused.

A loader reads more files than this exporter does. What would change a score and is not honoured is
refused by name; what is unknown is logged, or refused with --strict.
"""

from collections.abc import Collection, Mapping
from collections.abc import Set as AbstractSet
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from exporter.architectures.config import Config
from exporter.errors import CheckpointRefused
from exporter.modules import SCORES, Tail, read_tail, refuse_other_steps
from exporter.progress import print_line
from exporter.sentence_files import (
    MODEL_FILE,
    MODEL_SETTINGS,
    MODULES_FILE,
    SETTINGS,
    SETTINGS_FILES,
    TOKENIZER_CONFIG,
    is_cross_encoder,
    model_settings,
    module_folder,
    read_json,
    read_modules,
    read_prompts,
    transformer_settings,
)

PROCESSOR_FILE = "processor_config.json"
_ADAPTER = (
    "an adapter is adapter_config.json and adapter_model.safetensors in the folder of the weights, "
    "or in one of its own; put the two together, or remove the rest of one"
)
_PROCESSOR = (
    "a processor prepares what the model is fed, and only texts and tokenizers are known here; "
    "export a text model, or remove the file if nothing reads it"
)
_ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")
_REFUSED = {
    **dict.fromkeys(_ADAPTER_FILES, _ADAPTER),
    "preprocessor_config.json": _PROCESSOR,
    "router_config.json": "a router chooses between modules, which is not known here; export a "
    "model without it",
}
# Read, or without any effect on a score.
_KNOWN_FILES = (
    PROCESSOR_FILE,
    MODULES_FILE,
    MODEL_FILE,
    *SETTINGS_FILES,
    TOKENIZER_CONFIG,
    *"""
    config.json model.safetensors model.safetensors.index.json model-*-of-*.safetensors
    training.json trained_on.json tokenizer.json special_tokens_map.json added_tokens.json
    vocab.txt vocab.json merges.txt tokenizer.model sentencepiece.bpe.model spm.model unigram.json
    chat_template.jinja chat_template.json generation_config.json automodel_peft_config.json
    trainer_state.json *_results.json data_config.json *.py *.md *.bin *.pt *.pth *.h5 *.ot
    *.onnx *.onnx_data *.msgpack *.gguf *.csv *.tsv *.txt *.html *.pdf *.png *.jpg *.jpeg *.svg
    *.gif *.webp *.yaml *.yml *.log LICENSE* NOTICE* .*
    """.split(),
)
# Keys of config.json that change no score of a model in evaluation, in float32, without a cache.
_WITHOUT_EFFECT = frozenset(
    """
    _attn_implementation _commit_hash _name_or_path add_pooling_layer architectures
    attention_dropout attention_probs_dropout_prob auto_map bos_token_id classifier_activation
    classifier_dropout classifier_dropout_prob classifiers_size cls_dropout cls_token_id
    decoder_bias deterministic_flash_attn directionality dtype embedding_dropout eos_token_id
    finetuning_task gradient_checkpointing hidden_dropout hidden_dropout_prob id2label
    initializer_cutoff_factor initializer_factor initializer_range keys_to_ignore_at_inference
    label2id layer_norm_eps legacy mask_token_id mlp_dropout model_type num_labels output_attentions
    output_hidden_states output_past pad_token_id padding_idx pooler_dropout pooler_fc_size
    pooler_num_attention_heads pooler_num_fc_layers pooler_size_per_head pooler_type pretraining_tp
    problem_type random_weights reference_compile repad_logits_with_grad return_dict
    sbert_ce_default_activation_function sentence_transformers sep_token_id sparse_pred_ignore_index
    sparse_prediction summary_activation summary_first_dropout summary_last_dropout summary_type
    summary_use_proj task_specific_params temperature tie_encoder_decoder tie_word_embeddings
    tokenizer_class torch_dtype transformers_version unk_token_id use_bfloat16 use_cache
    """.split()
)
# Keys without effect if they have one of these values; any other value changes scores.
_SETTLED: Mapping[str, tuple[object, ...]] = {
    "add_cross_attention": (None, False),
    "chunk_size_feed_forward": (None, 0),
    # Read where a family has both ways; transformers masks any other's attention by it too.
    "is_causal": (None, False),
    "is_decoder": (None, False),
    "is_encoder_decoder": (None, False),
    "pruned_heads": (None, {}),
    "use_sliding_window": (None, False),
    "sliding_window": (None,),
    # Read by families with absolute positions; others must not have another kind.
    "position_embedding_type": (None, "absolute"),
}

# Keys of tokenizer_config.json. Their effect on tokens is compared with the witness's in any case.
_TOKENIZER = frozenset(
    """
    add_bos_token add_eos_token add_prefix_space added_tokens_decoder additional_special_tokens
    auto_map backend bos_token chat_template clean_text clean_up_tokenization_spaces cls_token
    device_map do_basic_tokenize do_lower_case eos_token errors extra_special_tokens
    fix_mistral_regex from_slow full_tokenizer_file is_local keep_accents legacy
    local_files_only mask_token max_len max_length model_input_names model_max_length
    model_specific_special_tokens name_or_path never_split pad_to_multiple_of pad_token
    pad_token_type_id padding_side processor_class remove_space sep_token sp_model_kwargs
    spaces_between_special_tokens special_tokens special_tokens_map_file split_by_punct
    split_special_tokens stride strip_accents tokenize_chinese_chars tokenizer_class
    tokenizer_file trim_offsets truncation_side truncation_strategy trust_remote_code unk_token
    use_default_system_prompt use_fast vocab_type
    """.split()
)
# Keys of modules' own config.json that are read, or change no vector while they are false.
_MODULES: Mapping[str, AbstractSet[str]] = {
    "Pooling": frozenset(
        """
        embedding_dimension include_prompt pooling_mode pooling_mode_cls_token
        pooling_mode_lasttoken pooling_mode_max_tokens pooling_mode_mean_sqrt_len_tokens
        pooling_mode_mean_tokens pooling_mode_weightedmean_tokens word_embedding_dimension
        """.split()
    ),
    "Normalize": frozenset(("module_input_name", "module_output_name")),
    "Dense": frozenset(
        """
        activation_function bias in_features module_input_name module_output_name out_features
        use_residual
        """.split()
    ),
    "LayerNorm": frozenset(("dimension",)),
    "LogitScore": frozenset(("true_token_id", "false_token_id", "module_input_name")),
}


def refuse_unread_files(
    root: Path, directory: Path, *, strict: bool, adapter: Path | None = None
) -> None:
    """Raise CheckpointRefused for a file that a loader would read and this exporter does not.

    `adapter` is the folder whose adapter is read.
    """
    for folder in dict.fromkeys((root, directory)):
        unknown = []
        for path in sorted(folder.iterdir()):
            if folder == adapter and path.name in _ADAPTER_FILES:
                continue
            if why := _REFUSED.get(path.name):
                raise CheckpointRefused(f"found {path.name} in {folder}, wanted none: {why}")
            if path.is_file() and not any(fnmatchcase(path.name, k) for k in _KNOWN_FILES):
                unknown.append(path.name)
        log_unknown(unknown, f"file in {folder}", strict=strict)
    _log_unread_settings(root, directory, strict=strict)


def _log_unread_settings(root: Path, directory: Path, *, strict: bool) -> None:
    """Check the keys of the tokenizer's settings and of sentence-transformers' files, which are
    not read without modules.json."""
    tokenizer = read_json(directory / TOKENIZER_CONFIG, dict[str, Any], absent={})
    unknown = sorted(tokenizer.keys() - _TOKENIZER)
    log_unknown(unknown, f"key in {TOKENIZER_CONFIG}", strict=strict)
    name, settings = transformer_settings(directory)
    modules = read_modules(root)
    if modules is None:
        return
    files: list[tuple[str, dict[str, Any], AbstractSet[str]]] = [
        (MODEL_FILE, model_settings(root) or {}, MODEL_SETTINGS),
        (name, settings, SETTINGS),
    ]
    for module in modules:
        if module.name in _MODULES:
            file = module_folder(root, module, needed=False) / "config.json"
            content = read_json(file, dict[str, Any], absent={})
            files.append((f"{module.path}/config.json", content, _MODULES[module.name]))
    for name, content, known in files:
        log_unknown(sorted(content.keys() - known), f"key in {name}", strict=strict)


def refuse_processor(root: Path, directory: Path) -> None:
    """Raise CheckpointRefused for a processor beside a model that takes no images."""
    for folder in dict.fromkeys((root, directory)):
        if (folder / PROCESSOR_FILE).exists():
            raise CheckpointRefused(
                f"found {PROCESSOR_FILE} in {folder}, wanted none: {_PROCESSOR}"
            )


def refuse_rank_modules(root: Path, *, judges: bool = False) -> None:
    """Raise CheckpointRefused if sentence-transformers would compute more than the classifier, or
    put a prompt before every query. A language model that `judges` is followed by LogitScore, and
    its prompt is the instruction (`exporter.prompt`)."""
    modules = read_modules(root)
    if modules is None:
        return
    if not is_cross_encoder(root):
        raise CheckpointRefused(
            f"found {MODULES_FILE} beside a classifier, which is an embedder's unless {MODEL_FILE} "
            "has model_type = 'CrossEncoder'; remove the files of the other kind"
        )
    names = [module.name for module in modules]
    wanted = ["Transformer", "LogitScore"] if judges else ["Transformer"]
    if names != wanted:
        raise CheckpointRefused(
            f"{MODULES_FILE} has the modules {', '.join(names)}, wanted {' and '.join(wanted)} "
            "alone: what follows changes the score, and is not exported; export a cross-encoder "
            "without it"
        )
    if not judges:
        _refuse_default_prompt(root)


def score_modules(root: Path, config: Config) -> Tail:
    """The modules by which sentence-transformers' cross-encoder makes states a score. Raises
    CheckpointRefused."""
    modules = read_modules(root) or []
    refuse_other_steps(modules, ())
    _refuse_default_prompt(root)
    return read_tail(root, modules, config.whole("hidden_size"), gives=SCORES)


def _refuse_default_prompt(root: Path) -> None:
    found = read_prompts(root)
    default = found.default_prompt_name
    if default is not None and found.prompts and found.prompts.get(default):
        raise CheckpointRefused(
            f"{MODEL_FILE} has default_prompt_name = {default!r}, wanted none: a reranker's prompt "
            "is its template; remove it if the model was not trained with it"
        )


def refuse_unread_keys(config: Config, *, strict: bool) -> None:
    """Check the keys of config.json that no architecture read. Raises CheckpointRefused."""
    for key in sorted(config.keys() - config.read):
        settled = _SETTLED.get(key)
        if settled is not None and config[key] not in settled:
            raise CheckpointRefused(
                f"config.json has {key} = {config[key]!r}, wanted none: the exporter does not "
                "implement it; export a checkpoint without it"
            )
    known = config.read | _WITHOUT_EFFECT | _SETTLED.keys()
    log_unknown(sorted(config.keys() - known), "key in config.json", strict=strict)


def log_unknown(names: Collection[str], what: str, *, strict: bool) -> None:
    """Log unknown `names`, or raise CheckpointRefused for them if `strict`."""
    if not names:
        return
    message = f"found the unknown {what}: {', '.join(names)}"
    if strict:
        raise CheckpointRefused(
            f"{message}; wanted only what is known to be honoured or to change nothing, because of "
            "--strict"
        )
    print_line(f"{message}; it is taken to change no score")
