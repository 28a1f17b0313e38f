"""Where the prompt of a reranker that reads one text is found."""

import json
from pathlib import Path
from typing import Any

import pytest

from exporter.errors import CheckpointRefused
from exporter.prompt import Prompt, find_prompt, training_limit
from exporter.tokens import load_tokenizer
from tests.tiny_checkpoints import BOS, EOS, write_llama

TRAINED = "training.json (prompt_template)"
PUBLISHED = Prompt("question:{query} passage:{passage}", "the profile", written=False)
CHAT = "{% for m in messages %}{% if m.role == 'query' %}Q {{ m.content }}{% endif %}{% endfor %}"
CHAT += (
    "{% for m in messages %}{% if m.role == 'document' %} D {{ m.content }}{% endif %}{% endfor %}"
)


def found(directory: Path, wished: str | None = None) -> Prompt:
    tokenizer = load_tokenizer(directory, "llama_bidirec")
    args = None if wished is None else Prompt(wished, "--template", written=False)
    return find_prompt(directory, tokenizer, PUBLISHED, args)


def trained(directory: Path, **facts: Any) -> None:
    (directory / "training.json").write_text(json.dumps(facts))


def test_the_folder_goes_before_the_family_and_an_option_before_both(tmp_path: Path) -> None:
    write_llama(tmp_path)
    assert found(tmp_path) == PUBLISHED
    trained(tmp_path, prompt_template="A {query} B {passage}", rerank_max_length=64)
    assert found(tmp_path) == Prompt("A {query} B {passage}", TRAINED)
    assert training_limit(tmp_path) == 64
    args = "{query} is answered by {passage}"
    assert found(tmp_path, args) == Prompt(args, "--template", written=False)


@pytest.mark.parametrize("place", ["chat_template.jinja", "tokenizer_config.json"])
@pytest.mark.parametrize("beginning", ["", "{{ bos_token }}"])
def test_a_chat_template_with_both_roles_is_the_prompt(
    place: str, beginning: str, tmp_path: Path
) -> None:
    write_llama(tmp_path)
    if place.endswith(".json"):
        settings = json.loads((tmp_path / place).read_bytes())
        settings["chat_template"] = beginning + CHAT
        (tmp_path / place).write_text(json.dumps(settings))
    else:
        (tmp_path / place).write_text(beginning + CHAT)
    named = place if place.endswith(".jinja") else f"{place}, chat_template"
    assert found(tmp_path) == Prompt("Q {query} D {passage}", f"the chat template ({named})")
    trained(tmp_path, prompt_template="Q {query} D {passage}")
    assert found(tmp_path).template == "Q {query} D {passage}"
    trained(tmp_path, prompt_template="{query} {passage}")
    with pytest.raises(CheckpointRefused, match=r"training\.json.*chat template.*--template"):
        found(tmp_path)


def test_a_chat_template_for_generating_is_none(tmp_path: Path) -> None:
    write_llama(tmp_path)
    (tmp_path / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ bos_token }}{{ m.role }}: {{ m.content }}{% endfor %}"
    )
    assert found(tmp_path) == PUBLISHED


@pytest.mark.parametrize(
    "chat",
    [
        CHAT.replace("m.content", "m.content | trim"),
        CHAT.replace("m.content", "m.content | upper") + "{{ messages[0].content }}",
        CHAT.replace("{{ m.content }}", ""),
        CHAT + CHAT,
        CHAT + "{{ raise_exception('no') }}",
    ],
    ids=["trims", "repeats", "leaves out", "twice", "raises"],
)
def test_a_chat_template_that_is_more_than_a_prompt_is_refused(chat: str, tmp_path: Path) -> None:
    write_llama(tmp_path)
    (tmp_path / "chat_template.jinja").write_text(chat)
    with pytest.raises(CheckpointRefused, match="the chat template"):
        found(tmp_path)


@pytest.mark.parametrize(
    "template", [5, "{query}", "{passage} {query}", "{query} {query} {passage}", ["{query}"]]
)
def test_what_is_no_prompt_is_refused(template: Any, tmp_path: Path) -> None:
    write_llama(tmp_path)
    trained(tmp_path, prompt_template=template)
    with pytest.raises(CheckpointRefused, match=r"training\.json"):
        found(tmp_path)


@pytest.mark.parametrize("limit", [0, -5, "64", 3.5, True])
def test_what_is_no_limit_is_refused(limit: Any, tmp_path: Path) -> None:
    trained(tmp_path, rerank_max_length=limit)
    with pytest.raises(CheckpointRefused, match="rerank_max_length"):
        training_limit(tmp_path)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{query} {passage}\n", None),
        (f"{{query}}{EOS}{{passage}}{EOS}", None),
        ("<|im_start|>{query} {passage}", "has <|im_start|>, which is not a token here"),
        (f"{BOS}{{query}} {{passage}}", f"begins with {BOS}, which the tokenizer adds as well"),
    ],
)
def test_strange_tokens_of_a_prompt_are_logged(
    template: str, message: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_llama(tmp_path)
    assert found(tmp_path, template).template == template
    output = capsys.readouterr().err
    assert output == "" if message is None else f"the prompt of --template {message}" in output


def test_the_tokenizers_own_beginning_is_there_once(tmp_path: Path) -> None:
    write_llama(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("{{ bos_token }}" + CHAT)
    assert BOS not in found(tmp_path).template
