"""Settings: one struct for each stage, with the defaults of NVIDIA's recipe.

Keys, values and paths are those of `src/nemotron/recipes/rerank` in NVIDIA-NeMo/Nemotron and of its
reference page for the rerank recipe. Keys of our own are last in each struct. Paths are relative to
the working directory.
"""

from pathlib import Path
from typing import Annotated, Literal

import msgspec

from runtime.profile import check_template
from runtime.template import INSTRUCTION

ROOT = "./output/rerank"

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
    def __post_init__(self) -> None:
        prompt = getattr(self, "prompt_template", None)
        if prompt is None:
            return
        check_template(prompt)
        if INSTRUCTION in prompt:
            raise ValueError(
                f"found {INSTRUCTION} in prompt_template, wanted the words of the instruction in "
                "its place, or nothing: all pairs of a recipe have one prompt"
            )

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
    output_dir: str = f"{ROOT}/stage0_sdg"
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


class Columns(_Settings, frozen=True, kw_only=True):
    """Names of the columns of rows that spell them otherwise; null: a usual spelling."""

    query: str | None = None
    positive: str | None = None
    negative: str | None = None
    label: str | None = None
    id: str | None = None
    split: str | None = None


class PrepConfig(_StageSettings, frozen=True, kw_only=True):
    """Stage 1: training groups with mined negatives, and an evaluation set in BEIR's layout.

    `data` are your own labelled questions, in any form that `rerank data inspect` knows; null:
    those of `sdg_input_path`. `train_input_file` is likewise, but all of it is for training.
    `columns` and `encoding` say how they are read; up to `max_broken_rows` rows are left out.
    `hold_out_path` are evaluation data that prep does not make: their questions and the passages
    that answer them are kept out of training too.
    Given negatives are kept: `mining` "missing" mines what they lack of `hard_negatives_to_mine`,
    "all" mines that many beside them, "none" mines nothing. `base_model` is the embedder used for
    mining: an artifact, a checkpoint directory or a hub id (the last two are exported first, for
    `mining_target`; null: for the GPU where there is one, else for the CPU).
    `workers` above 1 mines on Ray.
    """

    corpus_id: str = "nv_pp_random"
    sdg_input_path: str | None = f"{ROOT}/stage0_sdg/generation_result.json"
    train_input_file: str | None = None
    output_dir: str = f"{ROOT}/stage1_prep"
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

    data: str | None = None
    hold_out_path: list[str] = msgspec.field(default_factory=list)
    columns: Columns = Columns()
    encoding: str | None = None
    max_broken_rows: Count = 0
    mining: Literal["missing", "all", "none"] = "missing"
    mining_target: str | None = None
    embedder_dir: str = f"{ROOT}/embedders"
    workers: Positive = 1
    ray_address: str | None = None
    seed: int = 42

    @property
    def source(self) -> str:
        """Where the questions are read from."""
        return self.data or self.train_input_file or self.sdg_input_path or ""

    @property
    def all_train(self) -> bool:
        """Whether nothing is held out (NVIDIA's train_input_file)."""
        return self.train_input_file is not None


class FinetuneConfig(_StageSettings, frozen=True, kw_only=True):
    """Stage 2: a cross-encoder trained on groups of one positive and hard negatives.

    `prompt_template` is null for families whose tokenizer joins query and passage (BERT).
    `val_data_path` is a file in the format of `train_data_path`; null: the one that prep wrote
    beside it, if it did. With validation, the step of the least loss is kept (`keep_best`), and
    training ends after `early_stopping` validations without a lesser one. `processes` above 1
    trains under torchrun on this machine. `seeds` trains that many times, from `seed` on; the
    first one is the one that goes on, the others lie in the folder `seeds` of its checkpoints.
    `peft` "lora" trains adapters of `lora_rank` and the head instead of all weights, and adds them
    to the checkpoint. `gradient_checkpointing` computes activations twice instead of keeping them.
    `report_to` is a program that transformers reports to, such as wandb or tensorboard.
    `sample_negatives` draws the negatives of an example anew in each epoch, of all that it has.
    `teacher` is an endpoint's URL, an artifact or a checkpoint, whose score margins are learned
    instead of the labels; `teacher_api_key_env` names the variable with the key of an endpoint.
    """

    base_model: str = "nvidia/llama-nemotron-rerank-1b-v2"
    train_data_path: str = f"{ROOT}/stage1_prep/train_mined.automodel_unrolled.json"
    checkpoint_dir: str = f"{ROOT}/stage2_finetune/checkpoints"
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
    keep_best: bool = True
    early_stopping: Positive | None = None
    peft: Literal["lora"] | None = None
    lora_rank: Positive = 16
    gradient_checkpointing: bool = False
    report_to: str = "none"
    sample_negatives: bool = False
    teacher: str | None = None
    teacher_api_key_env: str | None = None
    seeds: Positive = 1
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
    stage export measures its own. `retrieval_target` as `mining_target` in prep. At most
    `corpus_chunk_size` passages are compared with the queries at a time. `guard_data_path` is a
    second evaluation set, in any form of the first: base and fine-tuned model are compared on it
    too. Where the fine-tuned model is worse than the base by more than chance, the stage fails
    unless `allow_worse`. `seeds` as in finetune: mean and spread of that many fine-tuned
    checkpoints. `nim_api_key_env` names the environment variable whose value is sent to `nim_url`
    as the bearer token.
    """

    base_model: str = "nvidia/llama-nemotron-rerank-1b-v2"
    finetuned_model_path: str = f"{ROOT}/stage2_finetune/checkpoints/LATEST/model/consolidated"
    retrieval_model: str = "nvidia/llama-nemotron-embed-1b-v2"
    eval_data_path: str = f"{ROOT}/stage1_prep/eval_beir"
    output_dir: str = f"{ROOT}/stage3_eval"
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

    guard_data_path: str | None = None
    allow_worse: bool = False
    seeds: Positive = 1
    nim_api_key_env: str | None = None
    onnx_model_path: str | None = None
    trt_model_path: str | None = None
    retrieval_target: str | None = None
    embedder_dir: str = f"{ROOT}/embedders"
    seed: int = 42


class ExportConfig(_StageSettings, frozen=True, kw_only=True):
    """Stage 4: the checkpoint as a proven artifact.

    `target` and `model_profile` are names that rerank-export takes; null: derived from the other
    keys, and the profile of the checkpoint's architecture. `eval_dir` null: no drift is measured.
    """

    model_path: str = f"{ROOT}/stage2_finetune/checkpoints/LATEST/model/consolidated"
    attn_implementation: Literal["eager", "sdpa", "flash_attention_2"] = "eager"
    quant_cfg: Literal["fp8", "int8_sq"] | None = None
    calibration_batch_size: Positive = 64
    prompt_template: str | None = PROMPT_TEMPLATE
    onnx_export_path: str = f"{ROOT}/stage4_export/onnx"
    opset: Positive = 17
    export_dtype: Literal["fp32", "fp16"] = "fp32"
    export_to_trt: bool = False
    trt_model_path: str = f"{ROOT}/stage4_export/tensorrt"
    override_layernorm_precision_to_fp32: bool = True
    override_layers_to_fp32: list[str] = msgspec.field(default_factory=lambda: ["/model/norm/"])
    profiling_verbosity: Literal["layer_names_only", "detailed", "none"] = "layer_names_only"
    trt_min_batch: Positive = 1
    trt_opt_batch: Positive = 16
    trt_max_batch: Positive = 64
    trt_min_seq_len: Positive = 3
    trt_opt_seq_len: Positive = 256
    trt_max_seq_len: Positive = 512
    output_dir: str = f"{ROOT}/stage4_export"

    target: str | None = None
    model_profile: str | None = None
    eval_dir: str | None = f"{ROOT}/stage3_eval"
    seed: int = 42


class DeployConfig(_StageSettings, frozen=True, kw_only=True):
    """Stage 5: a running endpoint of `model_dir`; null: of the image's own model.

    `launcher` "docker" runs `nim_image` (NVIDIA's, or one of ours), "process" runs rerank-serve on
    this machine. With `use_onnx` false, `tensorrt/` beside an `onnx/` is taken. `served_model`
    is sent as `model` by drift and smoke test; null sends none. `max_length` limits a pair, in
    tokens; null: the limit of eval.
    """

    nim_image: str = "nvcr.io/nim/nvidia/llama-nemotron-rerank-1b-v2:1.10.0"
    container_name: str = "nemotron-rerank-nim"
    replace_existing: bool = False
    use_onnx: bool = True
    model_dir: str | None = f"{ROOT}/stage4_export/onnx"
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

    launcher: Literal["docker", "process"] = "docker"
    served_model: str | None = None
    max_length: Positive | None = None
    eval_dir: str | None = f"{ROOT}/stage3_eval"
    output_dir: str = f"{ROOT}/stage5_deploy"
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
