"""Settings: NVIDIA's defaults key by key, files, overrides, and what is refused."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from recipe.config import STAGE_NAMES, Recipe
from recipe.config_files import as_yaml, config_names, load
from recipe.errors import BadConfig

OUTPUT = "./output/rerank"
CONSOLIDATED = f"{OUTPUT}/stage2_finetune/checkpoints/LATEST/model/consolidated"
TEMPLATE = "question:{query} \n \n passage:{passage}"
# As in the reference page of NVIDIA's rerank recipe and its default.yaml files.
NVIDIA: dict[str, dict[str, Any]] = {
    "sdg": {
        "corpus_id": "nv_pp_random",
        "corpus_dir": "hf://nvidia/Retrieval-Synthetic-NVDocs-v1"
        "@1c0d1856f3fb595b2dda98d4b61061fa6d782d51/sample_corpus/nv_pp_random",
        "file_extensions": [".txt", ".md", ".text", ""],
        "output_dir": f"{OUTPUT}/stage0_sdg",
        "min_text_length": 50,
        "sentences_per_chunk": 5,
        "num_sections": 1,
        "max_artifacts_per_type": 2,
        "num_pairs": 7,
        "query_counts": {"multi_hop": 3, "structural": 2, "contextual": 2},
        "reasoning_counts": dict.fromkeys(
            (
                "factual",
                "relational",
                "inferential",
                "temporal",
                "procedural",
                "visual",
                "causal",
            ),
            1,
        ),
        "min_hops": 1,
        "max_hops": 3,
        "min_complexity": 2,
        "similarity_threshold": 0.9,
        "multi_doc": False,
        "bundle_size": 2,
        "bundle_strategy": "sequential",
        "max_docs_per_bundle": 3,
        "artifact_extraction_model": "nvidia/nemotron-3-nano-30b-a3b",
        "artifact_extraction_provider": "nvidia",
        "qa_generation_model": "nvidia/nemotron-3-nano-30b-a3b",
        "qa_generation_provider": "nvidia",
        "quality_judge_model": "nvidia/nemotron-3-nano-30b-a3b",
        "quality_judge_provider": "nvidia",
        "embed_model": "nvidia/llama-3.2-nv-embedqa-1b-v2",
        "embed_provider": "nvidia",
        "max_parallel_requests_for_gen": 4,
        "buffer_size": 200,
        "preview": False,
    },
    "prep": {
        "corpus_id": "nv_pp_random",
        "sdg_input_path": f"{OUTPUT}/stage0_sdg/generation_result.json",
        "train_input_file": None,
        "output_dir": f"{OUTPUT}/stage1_prep",
        "base_model": "nvidia/llama-nemotron-embed-1b-v2",
        "quality_threshold": 7.0,
        "train_ratio": 0.8,
        "val_ratio": 0.0,
        "test_ratio": 0.2,
        "max_pos_docs": 5,
        "hard_negatives_to_mine": 5,
        "hard_neg_margin": 0.95,
        "mining_batch_size": 128,
        "query_max_length": 512,
        "passage_max_length": 512,
        "query_prefix": "query:",
        "passage_prefix": "passage:",
        "seed": 42,
    },
    "finetune": {
        "base_model": "nvidia/llama-nemotron-rerank-1b-v2",
        "train_data_path": f"{OUTPUT}/stage1_prep/train_mined.automodel_unrolled.json",
        "checkpoint_dir": f"{OUTPUT}/stage2_finetune/checkpoints",
        "num_epochs": 3,
        "global_batch_size": 128,
        "local_batch_size": 4,
        "learning_rate": 3.0e-6,
        "lr_warmup_steps": 100,
        "lr_decay_style": "cosine",
        "weight_decay": 0.01,
        "optimizer_backend": "auto",
        "attn_implementation": None,
        "train_n_passages": 5,
        "num_labels": 1,
        "temperature": 1.0,
        "pooling": "avg",
        "rerank_max_length": 512,
        "prompt_template": TEMPLATE,
        "checkpoint_every_steps": 100,
        "val_every_steps": 100,
    },
    "eval": {
        "base_model": "nvidia/llama-nemotron-rerank-1b-v2",
        "finetuned_model_path": CONSOLIDATED,
        "retrieval_model": "nvidia/llama-nemotron-embed-1b-v2",
        "eval_data_path": f"{OUTPUT}/stage1_prep/eval_beir",
        "output_dir": f"{OUTPUT}/stage3_eval",
        "k_values": [1, 5, 10, 100],
        "top_k": 100,
        "batch_size": 128,
        "max_length": 512,
        "corpus_chunk_size": 50_000,
        "retrieval_pooling": "avg",
        "retrieval_normalize": True,
        "query_prefix": "query:",
        "passage_prefix": "passage:",
        "prompt_template": TEMPLATE,
        "eval_base": True,
        "eval_finetuned": True,
        "eval_nim": False,
        "nim_url": "http://localhost:8000",
        "nim_model": "nvidia/llama-nemotron-rerank-1b-v2",
        "nim_batch_size": 32,
        "nim_timeout": 60,
    },
    "export": {
        "model_path": CONSOLIDATED,
        "attn_implementation": "eager",
        "quant_cfg": None,
        "calibration_batch_size": 64,
        "prompt_template": TEMPLATE,
        "onnx_export_path": f"{OUTPUT}/stage4_export/onnx",
        "opset": 17,
        "export_dtype": "fp32",
        "export_to_trt": False,
        "trt_model_path": f"{OUTPUT}/stage4_export/tensorrt",
        "override_layernorm_precision_to_fp32": True,
        "override_layers_to_fp32": ["/model/norm/"],
        "profiling_verbosity": "layer_names_only",
        "trt_min_batch": 1,
        "trt_opt_batch": 16,
        "trt_max_batch": 64,
        "trt_min_seq_len": 3,
        "trt_opt_seq_len": 256,
        "trt_max_seq_len": 512,
        "output_dir": f"{OUTPUT}/stage4_export",
    },
    "deploy": {
        "nim_image": "nvcr.io/nim/nvidia/llama-nemotron-rerank-1b-v2:1.10.0",
        "container_name": "nemotron-rerank-nim",
        "replace_existing": False,
        "use_onnx": True,
        "model_dir": f"{OUTPUT}/stage4_export/onnx",
        "container_model_path": "/opt/nim/custom_model",
        "container_cache_path": "/opt/nim/.cache",
        "bind_address": "127.0.0.1",
        "host_port": 8000,
        "container_port": 8000,
        "gpus": "all",
        "shm_size": "16gb",
        "detach": False,
        "remove_on_exit": True,
        "health_check_timeout": 120,
        "health_check_interval": 5,
        "ngc_api_key_env": "NGC_API_KEY",
    },
}


# NVIDIA's key with another default here: null is corpus_id, which is the same name.
OTHERWISE = {"sdg": {"dataset_name"}}
# Keys that only this recipe has.
OURS = {
    "sdg": "generator endpoint api_key_env embed_endpoint embed_input_type request_timeout_s "
    "max_attempts max_documents seed",
    "prep": "data hold_out_path columns encoding max_broken_rows mining mining_target embedder_dir "
    "workers ray_address",
    "finetune": "val_data_path keep_best early_stopping peft lora_rank "
    "gradient_checkpointing report_to sample_negatives teacher teacher_api_key_env "
    "seeds processes fsdp seed",
    "eval": "guard_data_path allow_worse seeds nim_api_key_env onnx_model_path trt_model_path "
    "retrieval_target embedder_dir seed",
    "export": "target model_profile eval_dir seed",
    "deploy": "launcher served_model max_length eval_dir output_dir seed",
}


@pytest.mark.parametrize("stage", STAGE_NAMES)
def test_every_key_is_nvidias_or_known_as_ours(stage: str) -> None:
    keys = set(getattr(Recipe(), stage).__struct_fields__)
    assert keys == {*NVIDIA[stage], *OTHERWISE.get(stage, ()), *OURS[stage].split()}


@pytest.mark.parametrize("stage", STAGE_NAMES)
def test_the_defaults_are_nvidias(stage: str) -> None:
    found = msgspec.to_builtins(getattr(load("default", STAGE_NAMES), stage))
    assert {key: found.get(key, "no such key") for key in NVIDIA[stage]} == NVIDIA[stage]


def test_every_shipped_configuration_can_be_read() -> None:
    assert config_names() == ["default", "small"]
    small = load("small", STAGE_NAMES)
    assert small.sdg.generator == "extractive"
    # What one stage writes is what the next one reads, whatever the folder is called.
    for recipe in (small, Recipe()):
        assert str(recipe.prep.sdg_input_path).startswith(recipe.sdg.output_dir)
        assert recipe.finetune.train_data_path.startswith(recipe.prep.output_dir)
        assert recipe.eval.eval_data_path == f"{recipe.prep.output_dir}/eval_beir"
        assert recipe.eval.finetuned_model_path.startswith(recipe.finetune.checkpoint_dir)
        assert recipe.export.model_path == recipe.eval.finetuned_model_path
        assert recipe.export.eval_dir == recipe.deploy.eval_dir == recipe.eval.output_dir
        assert recipe.deploy.model_dir == recipe.export.onnx_export_path
        assert Path(recipe.export.trt_model_path) == Path(recipe.deploy.model_dir or "").with_name(
            "tensorrt"
        )
        assert recipe.prep.hard_negatives_to_mine >= recipe.finetune.train_n_passages - 1


def test_overrides_reach_the_stages_that_know_them() -> None:
    chosen = ("prep", "finetune", "eval")
    found = load(
        "default",
        chosen,
        [
            "seed=7",
            "finetune.learning_rate=1e-5",
            "eval.k_values=[1, 3]",
            "finetune.prompt_template=q: {query} p: {passage}",
            "finetune.attn_implementation=null",
            "sdg.query_counts.multi_hop=1",
        ],
    )
    assert (found.prep.seed, found.finetune.seed, found.eval.seed) == (7, 7, 7)
    assert found.sdg.seed == 42  # not chosen
    assert found.finetune.learning_rate == 1e-5
    assert found.eval.k_values == [1, 3]
    assert found.finetune.prompt_template == "q: {query} p: {passage}"
    assert found.finetune.attn_implementation is None
    assert found.sdg.query_counts.multi_hop == 1
    assert found.sdg.query_counts.structural == 2


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("learning_rat=1", "nearest one is 'learning_rate'"),
        ("finetune.epochs=1", "nearest one is 'num_epochs'"),
        ("sdg.query_counts.multihop=1", "nearest one is 'multi_hop'"),
        ("sdg.query_counts=3", "Expected `object`"),
        ("finetune.num_epochs=0", "Expected `int` >= 1"),
        ("eval.k_values=[]", "length >= 1"),
        ("finetune.num_epochs=many", "Expected `int`"),
        ("finetune.num_epochs.x=1", "has no keys of its own"),
        ("finetune.lr_decay_style=step", "Invalid enum value"),
        ("finetune.prompt_template=p: {passage}", "wanted {query} followed by {passage}"),
        ("finetune.prompt_template={instruction}{query} {passage}", "wanted the words"),
        ("just words", "wanted key=value"),
    ],
)
def test_wrong_overrides_are_refused(override: str, message: str) -> None:
    with pytest.raises(BadConfig, match=message):
        load("default", ("sdg", "finetune"), [override])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("mine.toml", "seed = 3\n[finetune]\nnum_epochs = 1\n"),
        ("mine.yaml", "seed: 3\nfinetune:\n  num_epochs: 1\n"),
    ],
)
def test_a_file_in_toml_or_yaml(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    found = load(str(tmp_path / name), ("finetune",))
    assert (found.finetune.num_epochs, found.finetune.seed, found.eval.seed) == (1, 3, 42)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[finetune]\nepochs = 1\n", "finetune has no key 'epochs'; the nearest"),
        ("[fintune]\nnum_epochs = 1\n", "nearest one is 'finetune'"),
        ("[sdg.query_counts]\nmultihop = 1\n", "sdg.query_counts has no key 'multihop'"),
        ("finetune = 3\n", "wanted a table"),
        ("not toml", "cannot be read"),
    ],
)
def test_wrong_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(BadConfig, match=message):
        load(str(tmp_path / "mine.toml"), STAGE_NAMES)


def test_a_key_of_yaml_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("finetune:\n  3: 4\n")
    with pytest.raises(BadConfig, match="finetune has no key 3"):
        load(str(tmp_path / "mine.yaml"), STAGE_NAMES)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(BadConfig, match="wanted one of default, small"):
        load("smal", STAGE_NAMES)


def test_what_is_printed_can_be_read_again(tmp_path: Path) -> None:
    given = load("small", STAGE_NAMES, ["finetune.learning_rate=1e-5"])
    (tmp_path / "printed.yaml").write_text(as_yaml(given, STAGE_NAMES))
    assert load(str(tmp_path / "printed.yaml"), STAGE_NAMES) == given
