"""NVIDIA's keys that cannot matter here.

Three kinds: keys of `config.py` with one value, their default (WITHOUT_EFFECT); keys that may be
given with one value only (ONE_VALUE); and keys that may be given with any value (ANY_VALUE).
"""

from typing import Any

from recipe.config import EvalConfig, ExportConfig, FinetuneConfig, SdgConfig
from recipe.errors import BadConfig

_ENDPOINT = (
    "name any OpenAI-compatible endpoint by its URL in endpoint (embed_endpoint for embeddings), "
    "and the variable of its key in api_key_env"
)
_VECTORS = "the embedder pools as its checkpoint says and vectors are always normalised; omit both"
_SHAPES = "the shapes of a plan are in its target profile; name another target"

# For each stage, why a key can have no other value.
WITHOUT_EFFECT: dict[type[Any], dict[str, str]] = {
    SdgConfig: {
        "buffer_size": "every answer is written at once, nothing is buffered",
        "artifact_extraction_provider": _ENDPOINT,
        "qa_generation_provider": _ENDPOINT,
        "quality_judge_provider": _ENDPOINT,
        "embed_provider": _ENDPOINT,
    },
    FinetuneConfig: {
        "optimizer_backend": "training uses PyTorch's AdamW; Transformer Engine's and flashoptim's "
        "optimizers are not supported",
    },
    EvalConfig: {
        "retrieval_pooling": _VECTORS,
        "retrieval_normalize": _VECTORS,
    },
    ExportConfig: {
        "calibration_batch_size": "calibration takes this project's own texts, one by one",
        "override_layernorm_precision_to_fp32": "norms are always computed in fp32",
        "override_layers_to_fp32": "norms, pooling and score head are always fp32, other layers "
        "have the target's precision",
        "profiling_verbosity": "no other is built",
        "trt_min_batch": _SHAPES,
        "trt_opt_batch": _SHAPES,
        "trt_max_batch": _SHAPES,
        "trt_min_seq_len": _SHAPES,
        "trt_opt_seq_len": _SHAPES,
        "trt_max_seq_len": _SHAPES,
    },
}


_TRUST = "code inside a checkpoint is never run"
# Of every stage.
RUN = "the image and place of a job of NVIDIA's launcher; here --run PROFILE says them"
# For each stage, why a key of NVIDIA's files says nothing here, whatever its value.
ANY_VALUE: dict[str, dict[str, str]] = {
    "sdg": {
        "artifact_path": "answers are kept in output_dir",
        "log_level": "there is one level",
        "resume": "a stopped run always continues, and --force starts over; no answer that was "
        "paid for is asked for again",
    },
    "prep": {
        "artifact_recipe": "it names an artifact of NVIDIA's registry",
        "attn_implementation": "the embedder is mined with as an exported graph",
        "trust_remote_code": _TRUST,
        "use_group_id_in_eval": "an id is always a hash of the passage",
    },
    "finetune": {
        "flash_adamw_master_weight_bits": "training uses PyTorch's AdamW with float32 weights",
        "allow_untrusted_remote_code": _TRUST,
    },
    "eval": {
        "retrieval_batch_size": "batches of the first stage are planned by their lengths",
        "use_data_parallel": "one GPU scores",
        "allow_untrusted_remote_code": _TRUST,
    },
    "export": {
        "calibration_query": "calibration takes many queries, each with passages of its own",
    },
    "deploy": {
        "keep_failed_container": "the last lines of a failed server are in the message",
    },
}
# For each stage, a key of NVIDIA's files with the only value it may have, and why.
ONE_VALUE: dict[str, dict[str, tuple[object, str]]] = {
    "prep": {
        "split_strategy": ("random", "give a column of splits, or files of their own, instead"),
        "groups_json": (None, "equal questions and documents are in one split by themselves"),
        "conversion_seed": (42, "set seed=N"),
    },
    "eval": {
        "nim_truncate": ("END", "the other columns cut the end of a passage too"),
    },
    "deploy": {
        "container_user": ("", "the image's own user runs the server"),
    },
}


def cannot_matter(stage: str, key: str, value: object) -> bool:
    """Whether `key` of NVIDIA's files for `stage` says nothing here. Raises BadConfig."""
    if key == "run" or key in ANY_VALUE.get(stage, {}):
        return True
    if key not in ONE_VALUE.get(stage, {}):
        return False
    only, why = ONE_VALUE[stage][key]
    if value != only:
        raise BadConfig(f"found {key} = {value!r}, wanted {only!r}: {why}")
    return True


def refuse_other_values(settings: Any) -> None:
    """Raise BadConfig for the first key of the table with another value."""
    usual = type(settings)
    for key, why in WITHOUT_EFFECT.get(usual, {}).items():
        found, only = getattr(settings, key), getattr(usual(), key)
        if found != only:
            raise BadConfig(f"found {key} = {found!r}, wanted {only!r}: {why}")
