"""`rerank export` and `rerank-export export` read a folder alike: the same facts and origins."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from exporter import draft as drafting
from exporter import pipeline
from exporter.cli import main
from exporter.errors import ExportError
from recipe.config import ExportConfig
from recipe.export import STAGE
from runtime.manifest import Manifest
from tests.tiny_checkpoints import write_bert, write_llama, write_sentence_transformers

PUBLISHED = "question:{query} \n \n passage:{passage}"
TAILED = "Q {query}\nD {passage}\nRelevant:"
OWN = f"""
id = "somebody/own"
kind = "rank"
template = {json.dumps(TAILED)}
adds_bos = true
adds_eos = false
max_tokens = 128
padding_side = "left"
"""


def trained(folder: Path) -> None:
    facts = {"prompt_template": TAILED, "rerank_max_length": 64}
    (write_llama(folder) / "training.json").write_text(json.dumps(facts))


def chatting(folder: Path) -> None:
    chosen = '{{ (messages | selectattr("role", "eq", "ROLE") | first).content }}'
    query, passage = (chosen.replace("ROLE", role) for role in ("query", "document"))
    text = TAILED.replace("{query}", query).replace("{passage}", passage)
    (write_llama(folder) / "chat_template.jinja").write_text(text)


def prompted(folder: Path) -> None:
    prompts = {"query": "find: ", "document": "text: "}
    write_sentence_transformers(folder, pooling="cls", normalize=False, prompts=prompts)


def activated(folder: Path) -> None:
    write_bert(folder, sbert_ce_default_activation_function="torch.nn.modules.linear.Identity")


@pytest.mark.parametrize(
    ("write", "template", "profile", "origins"),
    [
        (
            trained,
            TAILED,
            None,
            {
                "template": "training.json (prompt_template)",
                "max_tokens": "training.json (rerank_max_length)",
            },
        ),
        (chatting, TAILED, None, {"template": "the chat template (chat_template.jinja)"}),
        (
            prompted,
            None,
            None,
            {
                "prefixes": "config_sentence_transformers.json (prompts)",
                "pooling": "1_Pooling/config.json (pooling_mode_cls_token)",
                "normalize": "modules.json (no Normalize)",
            },
        ),
        (
            activated,
            None,
            None,
            {"activation": "config.json (sbert_ce_default_activation_function)"},
        ),
        (
            write_llama,
            PUBLISHED,
            None,
            {"template": "the profile llama-nemotron-rerank-1b-v2, not witnessed"},
        ),
        (write_llama, TAILED, "own.toml", {"template": "the profile own.toml, not witnessed"}),
    ],
    ids=["training.json", "chat template", "prompts", "activation", "published", "own profile"],
)
def test_both_commands_read_the_same(
    write: Callable[[Path], Any],
    template: str | None,
    profile: str | None,
    origins: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "model"
    write(folder)
    if profile is not None:
        (tmp_path / profile).write_text(OWN)
        profile = str(tmp_path / profile)
    read: list[Manifest] = []
    honest = drafting.draft

    def recorded(*given: Any, **named: Any) -> drafting.Draft:
        found = honest(*given, **named)
        read.append(found.manifest)
        return found

    def stopped(*given: Any, **named: Any) -> None:
        recorded(*given, **named)
        raise ExportError("read")

    monkeypatch.setattr(drafting, "draft", recorded)  # what the recipe checks
    monkeypatch.setattr(pipeline, "draft", stopped)  # what either of them exports
    options = [] if profile is None else ["--profile", profile]
    assert main(["export", str(folder), "--out", str(tmp_path / "out"), *options]) == 1
    settings = ExportConfig(
        model_path=str(folder),
        prompt_template=template,
        model_profile=profile,
        eval_dir=None,
        output_dir=str(tmp_path / "stage"),
        onnx_export_path=str(tmp_path / "stage/onnx"),
    )
    (tmp_path / "stage").mkdir()
    STAGE.check(settings)
    with pytest.raises(ExportError, match=r"^read$"):
        STAGE.run(settings, lambda _: None)
    assert len(read) == 3
    assert read[0] == read[1] == read[2]
    assert read[0].template == template
    assert origins.items() <= read[0].origins.items()
