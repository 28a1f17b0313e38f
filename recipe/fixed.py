"""NVIDIA's keys that are accepted, checked and without effect: each has one value here, its default
in `config.py`."""

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
        "resume": "a stopped run always continues, and --force starts over",
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
        "calibration_query": "calibration takes many queries, each with passages of its own",
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


def refuse_other_values(settings: Any) -> None:
    """Raise BadConfig for the first key of the table with another value."""
    usual = type(settings)
    for key, why in WITHOUT_EFFECT.get(usual, {}).items():
        found, only = getattr(settings, key), getattr(usual(), key)
        if found != only:
            raise BadConfig(f"found {key} = {found!r}, wanted {only!r}: {why}")
