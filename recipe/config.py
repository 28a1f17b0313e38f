"""Settings: one struct for each stage, with the defaults of NVIDIA's recipe.

Keys, values and paths are those of `src/nemotron/recipes/rerank` in NVIDIA-NeMo/Nemotron and of its
reference page for the rerank recipe. Keys of our own are last in each struct. Paths are relative to
the working directory.

A configuration file (TOML, or YAML by its suffix) has one table for each stage. A key outside any
table applies to every chosen stage that has it, and so does a bare `key=value` on the command line;
`stage.key=value` names the stage. Precedence: defaults, file, command line.
"""

import difflib
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from textwrap import indent
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec
import yaml

from recipe.errors import BadConfig

DEFAULT = "default"
_SHIPPED = Path(__file__).parent / "configs"
_ROOT = "./output/rerank"

PROMPT_TEMPLATE = "question:{query} \n \n passage:{passage}"

Positive = Annotated[int, msgspec.Meta(ge=1)]
Count = Annotated[int, msgspec.Meta(ge=0)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]


class _Settings(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=False
):
    pass


class _StageSettings(_Settings, frozen=True, kw_only=True):
    @property
    def home(self) -> Path:
        """The folder of the stage's marks, and of what it writes."""
        return Path(self.output_dir)  # type: ignore[attr-defined]


class QueryCounts(_Settings, frozen=True, kw_only=True):
    """Relative shares of the query types among a document's questions."""

    multi_hop: Count = 3
    structural: Count = 2
    contextual: Count = 2


class ReasoningCounts(_Settings, frozen=True, kw_only=True):
    """Relative shares of the reasoning types among a document's questions."""

    factual: Count = 1
    relational: Count = 1
    inferential: Count = 1
    temporal: Count = 1
    procedural: Count = 1
    visual: Count = 1
    causal: Count = 1


class SdgConfig(_StageSettings, frozen=True, kw_only=True):
    """Stage 0: questions and answers from a corpus.

    `generator` "llm" calls an OpenAI-compatible endpoint; "extractive" uses titles and sentences of
    the corpus and needs no network. `corpus_dir` is a directory,
    `hf://ORG/DATASET@REVISION/FOLDER`, or `python-docs`, the documentation that comes with Python.
    `dataset_name` names the file of records; null: the same as `corpus_id`.
    """

    corpus_id: str = "nv_pp_random"
    corpus_dir: str = (
        "hf://nvidia/Retrieval-Synthetic-NVDocs-v1@1c0d1856f3fb595b2dda98d4b61061fa6d782d51"
        "/sample_corpus/nv_pp_random"
    )
    file_extensions: list[str] = msgspec.field(default_factory=lambda: [".txt", ".md", ".text", ""])
    output_dir: str = f"{_ROOT}/stage0_sdg"
    min_text_length: Count = 50
    sentences_per_chunk: Positive = 5
    num_sections: Positive = 1
    max_artifacts_per_type: Positive = 2
    num_pairs: Positive = 7
    query_counts: QueryCounts = QueryCounts()
    reasoning_counts: ReasoningCounts = ReasoningCounts()
    min_hops: Positive = 1
    max_hops: Positive = 3
    min_complexity: Annotated[int, msgspec.Meta(ge=1, le=5)] = 2
    similarity_threshold: Share = 0.9
    multi_doc: bool = False
    bundle_size: Positive = 2
    bundle_strategy: Literal["sequential"] = "sequential"
    max_docs_per_bundle: Positive = 3
    artifact_extraction_model: str = "nvidia/nemotron-3-nano-30b-a3b"
    artifact_extraction_provider: str = "nvidia"
    qa_generation_model: str = "nvidia/nemotron-3-nano-30b-a3b"
    qa_generation_provider: str = "nvidia"
    quality_judge_model: str = "nvidia/nemotron-3-nano-30b-a3b"
    quality_judge_provider: str = "nvidia"
    embed_model: str = "nvidia/llama-3.2-nv-embedqa-1b-v2"
    embed_provider: str = "nvidia"
    max_parallel_requests_for_gen: Positive = 4
    buffer_size: Positive = 200
    resume: Literal["never", "always", "if_possible"] = "if_possible"
    dataset_name: str | None = None
    preview: bool = False

    generator: Literal["llm", "extractive"] = "llm"
    endpoint: str = "https://integrate.api.nvidia.com/v1"
    api_key_env: str = "NVIDIA_API_KEY"
    embed_endpoint: str | None = None
    embed_input_type: str | None = "query"
    request_timeout_s: Annotated[float, msgspec.Meta(gt=0)] = 300.0
    max_attempts: Positive = 8
    max_documents: Positive | None = None
    seed: int = 42

    @property
    def home(self) -> Path:
        """See PrepConfig; a preview has a folder of its own."""
        return super().home / "preview" if self.preview else super().home


class PrepConfig(_StageSettings, frozen=True, kw_only=True):
    """Stage 1: training groups with mined negatives, and an evaluation set in BEIR's layout.

    `base_model` is the embedder used for mining: an artifact, a checkpoint directory or a hub id
    (the last two are exported first). `workers` above 1 mines on Ray.
    """

    corpus_id: str = "nv_pp_random"
    sdg_input_path: str = f"{_ROOT}/stage0_sdg"
    output_dir: str = f"{_ROOT}/stage1_prep"
    base_model: str = "nvidia/llama-nemotron-embed-1b-v2"
    quality_threshold: Annotated[float, msgspec.Meta(ge=0, le=10)] = 7.0
    train_ratio: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.8
    val_ratio: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.0
    test_ratio: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.2
    max_pos_docs: Positive = 5
    hard_negatives_to_mine: Positive = 5
    hard_neg_margin: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.95
    mining_batch_size: Positive = 128
    query_max_length: Positive = 512
    passage_max_length: Positive = 512
    query_prefix: str = "query:"
    passage_prefix: str = "passage:"

    mining_target: str = "cpu-fp32"
    embedder_dir: str = f"{_ROOT}/embedders"
    workers: Positive = 1
    ray_address: str | None = None
    skip_broken_lines: bool = False
    seed: int = 42


class FinetuneConfig(_StageSettings, frozen=True, kw_only=True):
    """Stage 2: a cross-encoder trained on groups of one positive and hard negatives.

    `prompt_template` is null for families whose tokenizer joins query and passage (BERT).
    `val_data_path` is a file in the format of `train_data_path`. `processes` above 1 trains under
    torchrun on this machine.
    """

    base_model: str = "nvidia/llama-nemotron-rerank-1b-v2"
    train_data_path: str = f"{_ROOT}/stage1_prep/train_mined.automodel_unrolled.json"
    checkpoint_dir: str = f"{_ROOT}/stage2_finetune/checkpoints"
    num_epochs: Positive = 3
    global_batch_size: Positive = 128
    local_batch_size: Positive = 4
    learning_rate: Annotated[float, msgspec.Meta(gt=0)] = 3.0e-6
    lr_warmup_steps: Count = 100
    lr_decay_style: Literal["cosine", "linear"] = "cosine"
    weight_decay: Annotated[float, msgspec.Meta(ge=0)] = 0.01
    optimizer_backend: Literal["auto", "fused_adam", "flash_adamw"] = "auto"
    attn_implementation: Literal["sdpa", "flash_attention_2", "eager"] | None = None
    train_n_passages: Annotated[int, msgspec.Meta(ge=2)] = 5
    num_labels: Literal[1] = 1
    temperature: Annotated[float, msgspec.Meta(gt=0)] = 1.0
    pooling: Literal["avg", "cls", "last"] = "avg"
    rerank_max_length: Positive = 512
    prompt_template: str | None = PROMPT_TEMPLATE
    checkpoint_every_steps: Positive = 100
    val_every_steps: Positive = 100

    val_data_path: str | None = None
    processes: Positive = 1
    fsdp: bool = False
    seed: int = 42

    @property
    def home(self) -> Path:
        """The folder of the checkpoints' folder."""
        return Path(self.checkpoint_dir).parent


class EvalConfig(_StageSettings, frozen=True, kw_only=True):
    """Stage 3: the same first-stage candidates, reranked by every available model.

    `onnx_model_path` and `trt_model_path` are artifacts to measure beside the checkpoint; null: the
    stage export measures its own. `nim_api_key_env` names the environment variable whose value is
    sent to `nim_url` as the bearer token.
    """

    base_model: str = "nvidia/llama-nemotron-rerank-1b-v2"
    finetuned_model_path: str = f"{_ROOT}/stage2_finetune/checkpoints/LATEST/model/consolidated"
    retrieval_model: str = "nvidia/llama-nemotron-embed-1b-v2"
    eval_data_path: str = f"{_ROOT}/stage1_prep/eval_beir"
    output_dir: str = f"{_ROOT}/stage3_eval"
    k_values: Annotated[list[Positive], msgspec.Meta(min_length=1)] = msgspec.field(
        default_factory=lambda: [1, 5, 10, 100]
    )
    top_k: Positive = 100
    batch_size: Positive = 128
    max_length: Positive = 512
    corpus_chunk_size: Positive = 50_000
    retrieval_pooling: Literal["avg", "cls", "last"] = "avg"
    retrieval_normalize: bool = True
    query_prefix: str = "query:"
    passage_prefix: str = "passage:"
    prompt_template: str | None = PROMPT_TEMPLATE
    eval_base: bool = True
    eval_finetuned: bool = True
    eval_nim: bool = False
    nim_url: str = "http://localhost:8000"
    nim_model: str = "nvidia/llama-nemotron-rerank-1b-v2"
    nim_batch_size: Positive = 32
    nim_timeout: Positive = 60

    nim_api_key_env: str | None = None
    onnx_model_path: str | None = None
    trt_model_path: str | None = None
    retrieval_target: str = "cpu-fp32"
    embedder_dir: str = f"{_ROOT}/embedders"
    seed: int = 42


class ExportConfig(_StageSettings, frozen=True, kw_only=True):
    """Stage 4: the checkpoint as a proven artifact.

    `target` and `model_profile` are names that rerank-export takes; null: derived from the other
    keys, and the profile of the checkpoint's architecture. `eval_dir` null: no drift is measured.
    """

    model_path: str = f"{_ROOT}/stage2_finetune/checkpoints/LATEST/model/consolidated"
    attn_implementation: Literal["eager", "sdpa", "flash_attention_2"] = "eager"
    quant_cfg: Literal["fp8", "int8_sq"] | None = None
    calibration_batch_size: Positive = 64
    calibration_query: str | None = None
    prompt_template: str | None = PROMPT_TEMPLATE
    onnx_export_path: str = f"{_ROOT}/stage4_export/onnx"
    opset: Positive = 17
    export_dtype: Literal["fp32", "fp16"] = "fp32"
    export_to_trt: bool = False
    trt_model_path: str = f"{_ROOT}/stage4_export/tensorrt"
    override_layernorm_precision_to_fp32: bool = True
    override_layers_to_fp32: list[str] = msgspec.field(default_factory=lambda: ["/model/norm/"])
    profiling_verbosity: Literal["layer_names_only", "detailed", "none"] = "layer_names_only"
    trt_min_batch: Positive = 1
    trt_opt_batch: Positive = 16
    trt_max_batch: Positive = 64
    trt_min_seq_len: Positive = 3
    trt_opt_seq_len: Positive = 256
    trt_max_seq_len: Positive = 512
    output_dir: str = f"{_ROOT}/stage4_export"

    target: str | None = None
    model_profile: str | None = None
    eval_dir: str | None = f"{_ROOT}/stage3_eval"
    seed: int = 42


class DeployConfig(_StageSettings, frozen=True, kw_only=True):
    """Stage 5: a running endpoint; `use_onnx` chooses between `onnx/` and `tensorrt/`.

    `launcher` "docker" runs `nim_image` (NVIDIA's, or one of ours), "process" runs rerank-serve on
    this machine. `model_dir` null: the output of the stage export in `export_dir`. `served_model`
    is sent as `model` by drift and smoke test; null sends none. `max_length` limits a pair, in
    tokens; null: the limit of eval.
    """

    nim_image: str = "nvcr.io/nim/nvidia/llama-nemotron-rerank-1b-v2:1.10.0"
    container_name: str = "nemotron-rerank-nim"
    replace_existing: bool = False
    use_onnx: bool = True
    model_dir: str | None = None
    container_model_path: str = "/opt/nim/custom_model"
    container_cache_path: str = "/opt/nim/.cache"
    bind_address: str = "127.0.0.1"
    host_port: Port = 8000
    container_port: Port = 8000
    gpus: str = "all"
    shm_size: str = "16gb"
    detach: bool = False
    remove_on_exit: bool = True
    health_check_timeout: Positive = 120
    health_check_interval: Positive = 5
    ngc_api_key_env: str = "NGC_API_KEY"

    export_dir: str = f"{_ROOT}/stage4_export"
    launcher: Literal["docker", "process"] = "docker"
    served_model: str | None = None
    max_length: Positive | None = None
    eval_dir: str | None = f"{_ROOT}/stage3_eval"
    output_dir: str = f"{_ROOT}/stage5_deploy"
    seed: int = 42


class Recipe(_Settings, frozen=True, kw_only=True):
    """The settings of all stages, in the order of the pipeline."""

    sdg: SdgConfig = SdgConfig()
    prep: PrepConfig = PrepConfig()
    finetune: FinetuneConfig = FinetuneConfig()
    eval: EvalConfig = EvalConfig()
    export: ExportConfig = ExportConfig()
    deploy: DeployConfig = DeployConfig()


STAGE_NAMES: tuple[str, ...] = Recipe.__struct_fields__


def config_names() -> list[str]:
    """The names that `-c` accepts besides a path."""
    return [DEFAULT, *sorted(path.stem for path in _SHIPPED.glob("*.toml"))]


def load(name: str, chosen: Sequence[str], overrides: Iterable[str] = ()) -> Recipe:
    """The settings of `-c name` for the `chosen` stages, overridden by `[stage.]key=value`.

    Raises BadConfig; for an unknown key it names the nearest known one.
    """
    values: dict[str, dict[str, Any]] = {stage: {} for stage in STAGE_NAMES}
    content, source = _read(name)
    for key, value in content.items():
        if key in STAGE_NAMES:
            if not isinstance(value, dict):
                raise BadConfig(f"{source}: found {key} = {value!r}, wanted a table of its keys")
            _check_keys(value, _struct_of(key), key, source)
            values[key].update(value)
        else:
            for stage in _stages_with_key(key, chosen, source):
                values[stage][key] = value
    for override in overrides:
        _apply_override(override, chosen, values)
    made: dict[str, Any] = {}
    for stage, given in values.items():
        try:
            made[stage] = msgspec.convert(given, _struct_of(stage), strict=False)
        except msgspec.ValidationError as error:
            raise BadConfig(f"{stage}: {error}; `rerank {stage} -d` shows every key") from error
    return Recipe(**made)


def as_yaml(recipe: Recipe, stages: Iterable[str]) -> str:
    """All settings of the stages, resolved, as YAML that `-c` can read."""
    tables = []
    for stage in stages:
        plain = msgspec.to_builtins(getattr(recipe, stage))
        text = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=100)
        tables.append(f"{stage}:\n{indent(text, '  ')}")
    return "".join(tables)


def _read(name: str) -> tuple[dict[str, Any], str]:
    if name == DEFAULT:
        return {}, DEFAULT
    path = _SHIPPED / f"{name}.toml" if name in config_names() else Path(name)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        known = ", ".join(config_names())
        raise BadConfig(
            f"-c {name}: found no such configuration and no readable file; wanted one of {known} "
            "or the path of a TOML or YAML file"
        ) from error
    try:
        is_yaml = path.suffix in {".yaml", ".yml"}
        content = yaml.safe_load(text) or {} if is_yaml else tomllib.loads(text)
    except (yaml.YAMLError, tomllib.TOMLDecodeError) as error:
        raise BadConfig(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise BadConfig(f"{path} holds a {type(content).__name__}, wanted keys and values")
    return content, str(path)


def _apply_override(
    override: str, chosen: Sequence[str], values: dict[str, dict[str, Any]]
) -> None:
    """Apply one `[stage.]key[.key]=value` of the command line to `values`."""
    name, sign, text = override.partition("=")
    if not sign or not name:
        raise BadConfig(f"found {override!r}, wanted key=value or stage.key=value")
    parts = name.split(".")
    if parts[0] in STAGE_NAMES and len(parts) > 1:
        stages, parts = [parts[0]], parts[1:]
    else:
        stages = _stages_with_key(parts[0], chosen, "the command line")
    for stage in stages:
        struct, place = _struct_of(stage), values[stage]
        for depth, part in enumerate(parts):
            _check_keys({part: None}, struct, ".".join([stage, *parts[:depth]]), "the command line")
            kind = next(f.type for f in msgspec.structs.fields(struct) if f.name == part)
            if depth == len(parts) - 1:
                place[part] = _value(text, kind, override)
            elif isinstance(kind, type) and issubclass(kind, msgspec.Struct):
                struct, place = kind, place.setdefault(part, {})
            else:
                raise BadConfig(f"found {override!r}, but {part} has no keys of its own")


def _value(text: str, kind: Any, override: str) -> Any:
    """A value of the command line as type `kind`; strings are taken verbatim."""
    kinds = set(get_args(kind)) if get_origin(kind) in {Union, UnionType} else {kind}
    if type(None) in kinds and text in {"null", "none", ""}:
        return None
    if str in kinds:
        return text
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise BadConfig(f"found {override!r}, whose value is not YAML: {error}") from error


def _stages_with_key(key: str, chosen: Sequence[str], source: str) -> list[str]:
    """The chosen stages that have `key`."""
    found = [stage for stage in chosen if key in _struct_of(stage).__struct_fields__]
    if not found:
        known = {name for stage in chosen for name in _struct_of(stage).__struct_fields__}
        raise _unknown(key, {*known, *STAGE_NAMES}, " and ".join(chosen), source)
    return found


def _check_keys(
    given: dict[str, Any], struct: type[msgspec.Struct], place: str, source: str
) -> None:
    kinds = {field.name: field.type for field in msgspec.structs.fields(struct)}
    for key, value in given.items():
        if key not in kinds:
            raise _unknown(key, kinds, place, source)
        kind = kinds[key]
        if isinstance(value, dict) and isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            _check_keys(value, kind, f"{place}.{key}", source)


def _unknown(key: object, known: Iterable[str], place: str, source: str) -> BadConfig:
    # YAML keys may be of any type.
    near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.0)
    return BadConfig(
        f"{source}: {place} has no key {key!r}; the nearest one is {near[0]!r}, and "
        f"`rerank {place.split('.')[0].split(' ')[0]} -d` shows all"
    )


def _struct_of(stage: str) -> type[msgspec.Struct]:
    (kind,) = (f.type for f in msgspec.structs.fields(Recipe) if f.name == stage)
    return kind  # type: ignore[no-any-return]
