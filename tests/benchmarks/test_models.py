"""Operations of the models, and the rows of the table."""

from pathlib import Path

import pytest

from benchmarks.judge_checkpoint import write_judge
from benchmarks.models import MODELS, flops, matrix_shapes
from benchmarks.roster import BY_NAME, CANDIDATES, REFERENCE
from benchmarks.texts import TextMaker, mixed_lengths
from exporter.checkpoint import load_model, read_checkpoint
from exporter.draft import ExportArgs, draft
from exporter.model_profile import choose_profile
from runtime.profile import load_target_profile

BERT = {
    "model_type": "bert",
    "hidden_size": 384,
    "intermediate_size": 1536,
    "num_attention_heads": 12,
    "num_hidden_layers": 6,
}
LLAMA = {
    "model_type": "llama_bidirec",
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "num_hidden_layers": 16,
}


def test_a_token_of_the_1b_shape_costs_two_operations_a_weight() -> None:
    weights = 16 * (2048 * 64 * (32 + 8 + 8 + 32) + 3 * 2048 * 8192)
    assert flops(LLAMA, 1) == pytest.approx(2 * weights, rel=1e-3)


def test_attention_grows_with_the_square_of_the_length() -> None:
    products = 2 * sum(k * n * times for k, n, times in matrix_shapes(BERT))
    assert flops(BERT, 100) == 6 * (100 * products + 4 * 384 * 100**2)


def test_names_are_unique_and_the_reference_is_among_them() -> None:
    assert len(BY_NAME) == len(CANDIDATES)
    assert BY_NAME[REFERENCE].precision == "fp32"


def test_every_peer_has_pins_and_every_candidate_a_module() -> None:
    room = Path(__file__).resolve().parents[2] / "benchmarks"
    for candidate in CANDIDATES:
        assert (room / "candidates" / f"{candidate.module}.py").is_file()
        assert candidate.ours == (candidate.peer is None)
        if candidate.peer is not None:
            assert "==" in (room / "requirements" / f"{candidate.peer}.txt").read_text()


TINY = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "vocab_size": 10304,
}


def test_the_judge_is_read_from_its_own_files_and_its_pairs_have_room(tmp_path: Path) -> None:
    model, directory = MODELS["qwen3"], tmp_path / "judge"
    tokenizer = Path(__file__).resolve().parents[2] / "embedded" / "rank"
    write_judge(directory, tokenizer, model.template, TINY)
    read = read_checkpoint(str(directory))
    profile = choose_profile(model.profile, read.architecture, read.kind)
    found = draft(read, profile, load_target_profile("cpu-fp32"), ExportArgs())
    origins = found.manifest.origins
    assert (origins["template"], origins["logit"]) == (
        "the chat template (chat_template.jinja)",
        "LogitScore of modules.json",
    )
    assert found.manifest.template == model.template
    assert load_model(found.checkpoint).causal
    lengths = mixed_lengths(4, model.shortest + 64, model.shortest)
    maker = TextMaker(directory / "tokenizer.json", model.template, model.max_tokens)
    assert maker.make(lengths).token_counts == lengths


def test_large_models_can_be_made_shallow() -> None:
    shallow = MODELS["qwen3"].shallow(4)
    assert (shallow.layers, shallow.folder.name) == (4, "qwen3-4-layers")
    assert MODELS["qwen3"].shallow(None) == MODELS["qwen3"]
    assert MODELS["embedded"].shallow(4) == MODELS["embedded"]
