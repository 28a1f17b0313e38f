"""What is wrong with a run is said before it costs: by -d, and by run before its first stage."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from recipe.config import STAGE_NAMES
from tests.recipe import labelled_forms as forms
from tests.recipe.models.material import write_beir, write_prep

Rerank = Callable[..., subprocess.CompletedProcess[str]]


def test_defaults_are_a_plan_with_nothing_there(rerank: Rerank) -> None:
    """As NVIDIA's own tests want it: no data, no keys, no Docker."""
    for stage in STAGE_NAMES:
        done = rerank(stage, "-c", "default", "-d", NVIDIA_API_KEY="", NGC_API_KEY="")
        assert done.returncode == 0, done.stderr
        assert f"rerank/{stage}" in done.stdout
    done = rerank("run", "-d", "--to", "deploy")
    assert done.returncode == 0, done.stderr
    assert "sdg -> prep -> finetune -> eval -> export -> deploy" in done.stdout


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("prep -d train_ratio=0.9", "= 1.1, wanted 1"),
        ("prep -d sdg_input_path=/nope", "found no generated questions at /nope"),
        ("prep -d data=nope", "found no labelled questions at nope"),
        ("prep -d data=a train_input_file=b", "wanted one: of data a part is held out"),
        ("eval -d top_k=5 k_values=[1,5,10]", "wanted top_k at least as large"),
        ("eval -d eval_data_path=hf://a/b@c", "`rerank prep data=hf://a/b@c` reads it"),
        ("finetune -d global_batch_size=130", "wanted a multiple of local_batch_size"),
        ("finetune -d optimizer_backend=flash_adamw", "training uses PyTorch's AdamW"),
        ("export -d quant_cfg=int8_sq export_dtype=fp16", "there is no target"),
        ("deploy -d model_dir=null launcher=process", "wanted|launcher=docker"),
        ("sdg -d file_extensions=.jsonl", "whose files hold rows"),
        ("run -d --from prep prep.hard_negatives_to_mine=3", "wanted at least 4 negatives"),
        ("run -d --from finetune eval.prompt_template={query}{passage}", "wanted the same in"),
        ("run -d --to export finetune.rerank_max_length=160", "wanted at most the same in eval"),
        ("run -d --from sdg prep.sdg_input_path=/nope", "found no generated questions"),
        ("run -d --from prep finetune.train_data_path=x.json", "found no training data at x.json"),
        ("run -d --from prep eval.eval_data_path=mine", "would not keep out of training; set prep"),
        (
            "run -d --from prep eval_data_path=a guard_data_path=b prep.hold_out_path=c",
            "found eval_data_path = a and guard_data_path = b, which prep does not make",
        ),
        (
            "run -d --from prep eval_data_path=a guard_data_path=b prep.hold_out_path=c",
            "set prep.hold_out_path=c,a,b",
        ),
        ("run --from prep guard_data_path=b", "found guard_data_path = b, which prep does not"),
        # Not only of dry runs, and of stages after the first.
        ("run --from prep prep.hard_negatives_to_mine=3", "wanted at least 4 negatives"),
        ("run --from sdg optimizer_backend=fused_adam", "training uses PyTorch's AdamW"),
        ("run --run nowhere --to deploy", "deploy does not support remote execution"),
    ],
)
def test_what_would_fail_later_is_said_now(
    rerank: Rerank, tmp_path: Path, line: str, message: str
) -> None:
    done = rerank(*line.split())
    assert done.returncode == 1, done.stdout
    assert message.rpartition("|")[2] in done.stderr
    assert not (tmp_path / "output").exists()


def test_a_dry_run_says_what_the_marks_say(rerank: Rerank, tmp_path: Path) -> None:
    settings = ("generator=extractive", "corpus_dir=texts", "min_text_length=1")
    (tmp_path / "texts").mkdir()
    for name in ("wool", "rain"):
        text = f"About {name}. It is known. It has been said. So it was. They agreed. Many did."
        (tmp_path / "texts" / f"{name}.txt").write_text(f"On {name}\n\n{text}\n")
    assert rerank("sdg", *settings).returncode == 0
    assert "sdg is finished in" in rerank("sdg", "-d", *settings).stdout
    other = rerank("sdg", "-d", *settings, "num_pairs=3").stdout
    assert "sdg is finished with num_pairs = 7, wanted 3; a run is refused without --force" in other


def test_a_run_does_not_train_on_what_it_measures(rerank: Rerank, tmp_path: Path) -> None:
    write_prep(tmp_path / "prep")
    write_beir(tmp_path / "leak", range(10, 16))
    line = ["run", "--from", "finetune", "-d", "train_n_passages=3"]
    line.append("train_data_path=prep/train_mined.json")
    assert rerank(*line, "eval_data_path=prep/eval_beir", "eval.k_values=[1]").returncode == 0
    done = rerank(*line, "eval_data_path=leak", "eval.k_values=[1]")
    assert done.returncode == 1
    assert "4 of 6 questions of eval_data_path = leak stand in train_data_path" in done.stderr
    # Nor does it choose its best step by them, whoever makes what it trains on.
    held = ["val_data_path=prep/val_mined.json", "eval_data_path=held", "eval.k_values=[1]"]
    write_beir(tmp_path / "held", range(16, 22))
    done = rerank(*line, *held)
    assert done.returncode == 1
    assert "2 of 6 questions of eval_data_path = held stand in the validation data" in done.stderr
    made = ["run", "-d", "--from", "prep", "prep.data=x.jsonl", "prep.base_model=./none"]
    rows = [{"query": f"q {n}?", "pos": [f"yes {n}"], "neg": ["no"]} for n in range(5)]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = rerank(*made, *held, "prep.mining=none", "prep.hold_out_path=held")
    assert "2 of 6 questions of eval_data_path = held stand in the validation data" in done.stderr
    # Other questions, whose answers are trained down.
    corpus, queries = (tmp_path / "leak" / name for name in ("corpus.jsonl", "queries.jsonl"))
    queries.write_text(queries.read_text().replace("what about", "who spoke of"))
    corpus.write_text(corpus.read_text().replace("The ", "THE  "))
    done = rerank(*line, "eval_data_path=leak", "eval.k_values=[1]")
    assert done.returncode == 1
    assert "4 passage(s) that answer a question of eval_data_path = leak are neg" in done.stderr
    # What guards against forgetting, too.
    guard = ["eval_data_path=prep/eval_beir", "eval.k_values=[1]", "guard_data_path=leak"]
    done = rerank(*line, *guard)
    assert done.returncode == 1
    assert "4 passage(s) that answer a question of guard_data_path = leak are neg" in done.stderr


def test_without_a_command_there_is_help(rerank: Rerank) -> None:
    done = rerank()
    assert done.returncode == 0
    assert "Fine-tune, prove and deploy a reranker" in done.stdout


def test_data_inspect_knows_triples_of_ids(rerank: Rerank, tmp_path: Path) -> None:
    forms.id_triples(tmp_path)
    for given in ("qidpidtriples.train.full.2.tsv", "."):
        done = rerank("data", "inspect", given)
        assert done.returncode == 0, done.stderr
        for said in (
            f"{given}: MS MARCO's triples of ids",
            "rows: 20",
            "passages: 40",
            "negatives a row: 1 to 1",
            "splits that the data name: train 20",
            "prep would take 16 questions to train, 0 to validate, 4 to test",
            f"  answer: {forms.answer(0)}",
        ):
            assert said in done.stdout


def test_data_inspect_says_what_prep_would_do(rerank: Rerank, tmp_path: Path) -> None:
    rows = [{"query": f"q {n % 10}?", "pos": [f"yes {n % 10}"], "neg": ["no"]} for n in range(20)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "x.jsonl").write_text(text)
    done = rerank("data", "inspect", "x.jsonl")
    assert done.returncode == 0, done.stderr
    for said in (
        "x.jsonl: JSONL rows of questions and passages",
        "rows: 20",
        "questions: 10, 10 in more than one row",
        "passages: 11",
        "words a question: 2 to 2",
        "prep would take 8 questions to train, 0 to validate, 2 to test (seed 42)",
        "question: q 0?",
        "  other: no",
    ):
        assert said in done.stdout
    (tmp_path / "esc.jsonl").write_text(text.replace("yes", "\\u001b[31myes"))
    assert "  answer: \\x1b[31myes 0" in rerank("data", "inspect", "esc.jsonl").stdout
    (tmp_path / "x.jsonl").write_text(text + "{\n")
    broken = rerank("data", "inspect", "x.jsonl")
    assert broken.returncode == 1
    assert "rows: 20, and 1 broken: x.jsonl, line 21" in broken.stdout
    assert rerank("data", "inspect", "x.jsonl", "max_broken_rows=1").returncode == 0
