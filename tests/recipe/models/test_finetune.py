"""Training: the loss, several processes, a kill in the middle, and loading the result."""

import json
import os
import re
import select
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForSequenceClassification,
    TrainingArguments,
    dynamic_module_utils,
    modeling_utils,
)

from exporter.checkpoint import load_model, read_checkpoint
from recipe.cli import main
from recipe.config import FinetuneConfig
from recipe.training.checkpoint import load_for_transformers, save_consolidated
from recipe.training.groups import read_groups
from recipe.training.job import Schedule
from recipe.training.loop import _arguments, _on_one_device, _say_steps
from recipe.training.losses import cross_entropy
from recipe.training.trained_on import read_trained_on, trained_on
from recipe.training.trainer import Reporter
from tests.recipe.conftest import PATIENCE_S
from tests.recipe.killing import environment, interrupt_after
from tests.recipe.models.material import write_prep

pytestmark = pytest.mark.usefixtures("undrawn")

CHECKPOINTS = Path("output/rerank/stage2_finetune/checkpoints")
CONSOLIDATED = CHECKPOINTS / "LATEST/model/consolidated"
# The stage on two processes, without checking the model: they train nothing.
STAGE = """
from dataclasses import replace
from recipe import finetune
from recipe.config_files import load
from recipe.stage import perform
real = finetune._torchrun
finetune._torchrun = lambda settings: [
    word.replace("recipe.training", "tests.recipe.models.held_training") for word in real(settings)
]
settings = load("c.toml", ["finetune"], ["processes=2"]).finetune
perform(replace(finetune.STAGE, check=lambda _: None), settings, force=False, log=print)
"""


def history(folder: Path) -> list[dict[str, float]]:
    lines = (folder / CHECKPOINTS / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def losses(folder: Path) -> list[float]:
    return [entry["loss"] for entry in history(folder) if "loss" in entry]


def weights(folder: Path) -> bytes:
    return (folder / CONSOLIDATED / "model.safetensors").read_bytes()


def test_training_lowers_the_loss_and_tells_its_course(finished: Path) -> None:
    steps = losses(finished)
    assert sum(steps[-3:]) < sum(steps[:3])
    assert any("eval_mrr" in entry for entry in history(finished))


def test_the_checkpoint_says_what_it_was_trained_on(finished: Path) -> None:
    groups = read_groups(
        finished / "prep/train_mined.json", 3, finished / "prep/val_mined.json", lambda _: None
    )
    held_out = read_groups(finished / "prep/val_mined.json", 3, split="val")
    found = read_trained_on(finished / CONSOLIDATED)
    assert found == trained_on(groups, held_out)
    assert found is not None
    assert len(found.validated) == 4


def test_the_rate_warms_up_and_falls_along_a_cosine(finished: Path) -> None:
    rates = [entry["learning_rate"] for entry in history(finished) if "loss" in entry]
    top = rates.index(max(rates))
    assert rates[top] == pytest.approx(1e-3)
    assert top == 2
    assert all(a > b for a, b in zip(rates[top:], rates[top + 1 :], strict=False))


def test_transformers_and_the_exporter_read_the_same_model(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The folder where transformers puts a checkpoint's code: not under HOME.
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    directory = finished / CONSOLIDATED
    ours = load_model(read_checkpoint(str(directory)))
    theirs = AutoModelForSequenceClassification.from_pretrained(directory, trust_remote_code=True)
    ids = torch.randint(2, 300, (3, 20), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[0, :7] = 0
    with torch.no_grad():
        wanted = theirs.eval()(input_ids=ids, attention_mask=mask).logits
        found = ours(ids, mask)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_the_temperature_stands_in_the_checkpoint(
    tiny_llama_checkpoint: Path, tmp_path: Path
) -> None:
    base = read_checkpoint(str(tiny_llama_checkpoint))
    plain, hot = (load_for_transformers(base, temperature=value).eval() for value in (1.0, 4.0))
    ids = torch.randint(2, 300, (6, 12), generator=torch.Generator().manual_seed(0))
    batch = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "labels": torch.zeros(2, dtype=torch.int64),
    }
    with torch.no_grad():
        (_, logits), (loss, divided) = cross_entropy(plain, batch), cross_entropy(hot, batch)
    torch.testing.assert_close(divided * 4, logits)
    wanted = torch.nn.functional.cross_entropy(logits / 4, batch["labels"])
    torch.testing.assert_close(loss, wanted)
    # What is served divides as the training did.
    save_consolidated(hot, hot.state_dict(), base, tmp_path / "saved")
    saved = load_model(read_checkpoint(str(tmp_path / "saved")))
    with torch.no_grad():
        served = saved(ids, batch["attention_mask"]).view(2, 3)
    torch.testing.assert_close(served, divided, atol=1e-5, rtol=1e-5)


def stop_at_the_first_checkpoint(*arguments: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        interrupt_after(patch, Reporter, "on_save")
        assert main(["finetune", "-c", "c.toml", *arguments]) == 130
    assert not (CHECKPOINTS / "LATEST").exists()
    assert len(list((CHECKPOINTS / "trainer").glob("checkpoint-*/whole"))) == 1


def test_a_run_that_was_stopped_goes_on_to_the_same_weights_when_the_hub_moves_on(
    finished: Path,
    fresh: Path,
    tiny_llama_checkpoint: Path,
    hub_cache: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    commit = "1c0d1856f3fb595b2dda98d4b61061fa6d782d51"
    repository = hub_cache / "models--someone--model"
    shutil.copytree(tiny_llama_checkpoint, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    stop_at_the_first_checkpoint("base_model=someone/model")
    # The current main cannot even be read.
    (repository / "snapshots" / commit[::-1]).mkdir()
    (repository / "refs" / "main").write_text(commit[::-1])
    # An incomplete checkpoint.
    torn = CHECKPOINTS / "trainer" / "checkpoint-8"
    torn.mkdir()
    capsys.readouterr()
    assert main(["finetune", "-c", "c.toml", "base_model=someone/model"]) == 0
    output = capsys.readouterr().err
    assert f"this run keeps {commit}" in output
    assert "step 1 of" not in output  # it did not begin again
    assert not torn.exists()
    assert losses(fresh) == losses(finished)
    assert weights(fresh) == weights(finished)
    assert main(["finetune", "-c", "c.toml", "base_model=someone/model"]) == 0
    assert "already finished" in capsys.readouterr().err


@pytest.mark.heavy
def test_two_processes_go_on_along_the_curve_of_one(
    finished: Path, fresh: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    stop_at_the_first_checkpoint()
    capfd.readouterr()
    assert main(["finetune", "-c", "c.toml", "processes=2"]) == 0
    output = capfd.readouterr().err
    assert "on 2 process(es)" in output
    assert "step 1 of" not in output  # they did not begin again
    assert losses(fresh) == pytest.approx(losses(finished), abs=1e-5)


def test_processes_end_with_the_stage_that_was_killed(fresh: Path) -> None:
    home = (fresh / CHECKPOINTS).parent
    home.mkdir(parents=True)
    os.mkfifo(home / "held")
    gate = os.open(home / "held", os.O_RDONLY | os.O_NONBLOCK)
    stage = subprocess.Popen([sys.executable, "-c", STAGE], cwd=fresh, env=environment())
    try:
        poller = select.poll()
        poller.register(gate, select.POLLIN)
        at_work = b""
        while len(at_work) < 2:  # one byte of each process
            assert stage.poll() is None, "the stage ended before it was killed"
            if poller.poll(1000):
                at_work += os.read(gate, 2)
    finally:
        stage.kill()
        stage.wait()
    try:
        # Its other end is closed once all processes have ended.
        assert poller.poll(PATIENCE_S * 1000), "processes outlive the stage that was killed"
        assert os.read(gate, 1) == b""
    finally:
        os.close(gate)


def test_a_process_that_torchrun_did_not_live_to_see_ends_at_once(tmp_path: Path) -> None:
    """It never gets its job: without torchrun it would wait forever."""
    job = tmp_path / "job.json"
    os.mkfifo(job)
    process = shlex.join([sys.executable, "-m", "recipe.training", str(job)])
    # The shell ends at once; the pipe ends with the process.
    found = subprocess.run(
        ["sh", "-c", f"{process} &"], stderr=subprocess.PIPE, timeout=PATIENCE_S, check=True
    )
    assert b"wanted torchrun" in found.stderr


def test_one_process_trains_on_one_of_several_gpus(tmp_path: Path) -> None:
    several = TrainingArguments(
        output_dir=str(tmp_path), per_device_train_batch_size=2, use_cpu=True, report_to="none"
    )
    several._n_gpu = 4  # what the Trainer counts on a machine with four
    assert several.train_batch_size == 8
    assert _on_one_device(several).train_batch_size == 2


def test_a_bert_trains_without_a_template(
    tiny_bert_checkpoint: Path, fresh: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shared = [f"base_model={tiny_bert_checkpoint}", "num_epochs=1", "pooling=cls"]
    assert main(["finetune", "-c", "c.toml", *shared]) == 1
    assert "wanted null: its tokenizer joins" in capsys.readouterr().err
    assert main(["finetune", "-c", "c.toml", *shared, "prompt_template=null"]) == 0
    load_model(read_checkpoint(str(fresh / CONSOLIDATED)))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train_n_passages=6", "hard_negatives_to_mine), or lower train_n_passages"),
        ("global_batch_size=5", "wanted a multiple of local_batch_size"),
        ("prompt_template=null", "wanted a template"),
        ("optimizer_backend=fused_adam", "training uses PyTorch's AdamW"),
        ("attn_implementation=flash_attention_2", "wanted sdpa, eager or null"),
        ("fsdp=true", "no GPU"),
        ("report_to=nobody", "wanted one whose package is installed: none"),
        ("train_data_path=./nowhere.json", "run `rerank prep`"),
        ("learning_rat=1", "learning_rate"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_any_work(
    fresh: Path, capsys: pytest.CaptureFixture[str], override: str, message: str
) -> None:
    assert main(["finetune", "-c", "c.toml", override]) == 1
    assert message in capsys.readouterr().err
    assert not (fresh / CHECKPOINTS / "trainer").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read as JSON"),
        ('{"corpus": {"path": "./corpus/"}, "data": []}', "holds no examples"),
        (
            '{"corpus": {"path": "./gone/"}, "data": [RECORD]}',
            "found no corpus of the training data at prep/gone",
        ),
        (
            '{"corpus": {"path": "./corpus/"}, "data": [UNKNOWN]}',
            "element 1: names the passage 'd99', which is not in the corpus",
        ),
    ],
)
def test_broken_training_data_is_named(
    fresh: Path, capsys: pytest.CaptureFixture[str], content: str, message: str
) -> None:
    file = fresh / "prep" / "train_mined.json"
    one = json.dumps(json.loads(file.read_text())["data"][0])
    text = content.replace("RECORD", one).replace("UNKNOWN", one.replace('"d1"', '"d99"'))
    file.write_text(text)
    assert main(["finetune", "-c", "c.toml"]) == 1
    assert message in capsys.readouterr().err


def test_fewer_negatives_than_asked_are_refused_with_their_number(
    fresh: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_prep(tmp_path / "few", negatives=1)
    path = tmp_path / "few" / "train_mined.json"
    assert main(["finetune", "-c", "c.toml", f"train_data_path={path}"]) == 1
    assert "14 of 14 examples" in capsys.readouterr().err


def test_the_step_of_the_least_validation_loss_is_kept(
    fresh: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # So high a rate that the first steps are the best: later ones forget what the base knows.
    wild = ["learning_rate=1", "lr_warmup_steps=0", "val_every_steps=1", "checkpoint_every_steps=2"]
    with pytest.MonkeyPatch.context() as patch:
        interrupt_after(patch, Reporter, "on_save", 2)  # one validation was in vain
        assert main(["finetune", "-c", "c.toml", *wild, "early_stopping=2"]) == 130
    first = load_file(fresh / CHECKPOINTS / "trainer/checkpoint-1/model.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        interrupt_after(patch, Reporter, "on_save")  # so was the second, for which it stopped
        assert main(["finetune", "-c", "c.toml", *wild, "early_stopping=2"]) == 130
    # What is said to help where memory runs out changes no result, so the run goes on with it.
    line = ["finetune", "-c", "c.toml", *wild, "early_stopping=2", "gradient_checkpointing=true"]
    capsys.readouterr()
    assert main(line) == 0
    validated = {e["step"]: e["eval_loss"] for e in history(fresh) if "eval_loss" in e}
    start = validated.pop(0)
    best = min(validated, key=validated.__getitem__)
    assert best == 1
    assert validated[1] > start
    output = capsys.readouterr().err
    assert "kept step 1 of 3" in output
    assert "no step has a lesser validation loss than the base" in output
    # The names of its steps: one epoch has three.
    assert (fresh / CHECKPOINTS / "LATEST").readlink() == Path("epoch_1_step_1")
    assert "at the lesser of checkpoint_every_steps = 2 and val_every_steps = 1\n" in output
    facts = json.loads((fresh / CONSOLIDATED / "training.json").read_text())
    assert facts["steps"] == best
    assert max(validated) == best + 2 < 9  # it stopped before its end
    torch.testing.assert_close(load_file(fresh / CONSOLIDATED / "model.safetensors"), first)
    # What it could go on from is three times the weights, and no longer needed.
    assert not (fresh / CHECKPOINTS / "trainer").exists()


def test_a_run_that_only_warms_up_says_so_in_its_last_line(
    fresh: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (fresh / "prep" / "val_mined.json").unlink()
    few = ["val_data_path=null", "num_epochs=1", "lr_warmup_steps=100"]
    assert main(["finetune", "-c", "c.toml", *few, "early_stopping=2"]) == 1
    assert "found early_stopping and no validation data" in capsys.readouterr().err
    assert main(["finetune", "-c", "c.toml", *few]) == 0
    output = capsys.readouterr().err
    assert "lr_warmup_steps = 2, not 100" in output
    assert re.search(
        r"about [0-9,]+ tokens in 1 epoch.*a row has \d+ on average and \d+ at", output
    )
    assert re.search(r"about [0-9.]+ GiB of memory: .* for activations of 6 rows of \d+ t", output)
    assert output.index("GiB of memory") < output.index("step 1 of")
    assert "saves every 1 steps, not 100: a run saves 3 times at least" in output
    assert re.search(r": step 2 of 3: loss [0-9.]+, about \d+ s left$", output, re.MULTILINE)
    *_, last, done = output.splitlines()
    assert "done:" in done
    assert "the learning rate rose through all 3 steps" in last


def said_of(plan: Schedule, folder: Path, **given: Any) -> tuple[float, str]:
    """The steps between checkpoints, and what is said of settings before the first step."""
    settings, lines = FinetuneConfig(**given), []
    made = _arguments(settings, folder, 1, plan, validates=True)
    _say_steps(settings, plan, made, 0, lines.append)
    return made.save_steps, "\n".join(lines)


@pytest.mark.parametrize(
    ("steps", "patience", "every", "ends"),
    [
        (150, None, 50, True),
        (150, 3, 25, True),
        (300, 3, 50, True),
        (600, 3, 100, True),
        (3, 3, 1, False),
        (4, 3, 1, True),
    ],
)
def test_early_stopping_validates_often_enough_or_says_that_it_cannot(
    tmp_path: Path, steps: int, patience: int | None, every: int, ends: bool
) -> None:
    plan = Schedule(examples=3000, batch=128, steps=steps, warmup=1)
    found, said = said_of(plan, tmp_path, early_stopping=patience)
    assert found == every
    assert ("a run saves 6 times at least" in said) == (patience == 3 and steps < 600)
    assert ("cannot end this run before its last step" in said) == (not ends)


def test_rates_for_all_weights_are_too_low_for_adapters(tmp_path: Path) -> None:
    plan = Schedule(examples=3000, batch=128, steps=600, warmup=100)
    assert "at learning_rate = 3e-06" in said_of(plan, tmp_path, peft="lora")[1]
    assert said_of(plan, tmp_path, peft="lora", learning_rate=1e-4)[1] == ""
    assert said_of(plan, tmp_path)[1] == ""


def test_seeds_are_trained_one_after_the_other(
    fresh: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["finetune", "-c", "c.toml", "num_epochs=1", "seeds=2"]
    with pytest.MonkeyPatch.context() as patch:
        interrupt_after(patch, Reporter, "on_save", 4)  # the first has three checkpoints
        assert main(line) == 130
    first = weights(fresh)
    capsys.readouterr()
    assert main(line) == 0
    assert "already trained" in capsys.readouterr().err
    assert weights(fresh) == first
    other = fresh / CHECKPOINTS / "seeds/1/LATEST/model/consolidated"
    assert json.loads((other / "training.json").read_text())["seed"] == 43
    assert (other / "model.safetensors").read_bytes() != first


@pytest.mark.heavy
def test_activations_that_are_computed_twice_give_the_same_curve(
    fresh: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, layers = modeling_utils.checkpoint, []

    def counting(*values: Any, **named: Any) -> Any:
        layers.append(1)
        return real(*values, **named)

    monkeypatch.setattr(modeling_utils, "checkpoint", counting)
    assert main(["finetune", "-c", "c.toml", "gradient_checkpointing=true"]) == 0
    assert layers
    assert losses(fresh) == pytest.approx(losses(finished), abs=1e-5)


@pytest.mark.heavy
def test_an_adapter_is_trained_resumed_and_merged(
    fresh: Path, tiny_llama_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["finetune", "-c", "c.toml", "peft=lora", "lora_rank=2", "learning_rate=1e-2"]
    assert main([*line, "fsdp=true"]) == 1
    assert "wanted one of them" in capsys.readouterr().err
    assert main([*line]) == 0
    whole, curve = weights(fresh), losses(fresh)
    assert sum(curve[-3:]) < sum(curve[:3])
    # The published model is one that any loader takes, with other weights in its layers.
    before = load_file(tiny_llama_checkpoint / "model.safetensors")
    after = load_file(fresh / CONSOLIDATED / "model.safetensors")
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert after.keys() == before.keys()
    assert any("q_proj" in name for name in changed)
    assert "score.weight" in changed
    assert not any("embed_tokens" in name or "norm" in name for name in changed)
    load_model(read_checkpoint(str(fresh / CONSOLIDATED)))
    shutil.rmtree(fresh / "output")
    stop_at_the_first_checkpoint(*line[3:])
    assert main(line) == 0
    assert losses(fresh) == curve
    assert weights(fresh) == whole
