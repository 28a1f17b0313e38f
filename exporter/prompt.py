"""The prompt of rerankers that read query and passage as one text: where it is written down.

First an option, then training.json, which this project's recipe leaves beside the weights, then a
chat template with the roles query and document, at last the family's published prompt.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from exporter.errors import CheckpointRefused
from exporter.sentence_files import read_json

TRAINING_FILE = "training.json"
TEMPLATE_OPTION = "--template"
_ROLES = ("query", "document")
# Private-use characters stand for the two texts; blanks around them show whether a template trims.
_QUERY, _DOCUMENT = " \ue000 ", " \ue001 "


@dataclass(frozen=True)
class Prompt:
    """`template` has {query} and {passage}; `origin` says where it was read; `written` is true for
    one that stands in the checkpoint's folder."""

    template: str
    origin: str
    written: bool = True


def training_limit(root: Path) -> int | None:
    """The longest pair, in tokens, that training.json names. Raises CheckpointRefused."""
    found = _training(root).get("rerank_max_length")
    if found is None:
        return None
    if isinstance(found, bool) or not isinstance(found, int) or found < 1:
        raise CheckpointRefused(
            f"{TRAINING_FILE} has rerank_max_length = {found!r}, wanted a number from 1"
        )
    return found


def find_prompt(
    root: Path, tokenizer: PreTrainedTokenizerBase, published: Prompt, wished: str | None
) -> Prompt:
    """The prompt of the checkpoint in `root`; `wished` is the option's, `published` the family's.

    Raises CheckpointRefused where two of them differ and nothing was wished.
    """
    if wished is not None:
        return Prompt(_checked(wished, TEMPLATE_OPTION), TEMPLATE_OPTION, written=False)
    found = [prompt for prompt in (_trained(root), _chat(tokenizer)) if prompt is not None]
    if len({prompt.template for prompt in found}) > 1:
        told = " and ".join(f"{prompt.template!r} ({prompt.origin})" for prompt in found)
        raise CheckpointRefused(
            f"found the prompts {told}, wanted one; name the one that the model was trained with "
            "as --template"
        )
    return found[0] if found else published


def _training(root: Path) -> dict[str, Any]:
    return read_json(root / TRAINING_FILE, dict[str, Any], absent={})


def _trained(root: Path) -> Prompt | None:
    found = _training(root).get("prompt_template")
    if found is None:
        return None
    return Prompt(_checked(found, TRAINING_FILE), TRAINING_FILE)


def _chat(tokenizer: PreTrainedTokenizerBase) -> Prompt | None:
    """The chat template, if it knows both roles: others are for generating text."""
    where = "the chat template"
    source = tokenizer.chat_template
    if isinstance(source, dict):  # several by name; this one is taken where nobody names one
        source = source.get("default")
    if source == "":
        raise CheckpointRefused(
            "chat_template is empty; remove it, or name the prompt as --template"
        )
    if not isinstance(source, str) or not all(role in source for role in _ROLES):
        return None
    try:
        text = tokenizer.apply_chat_template(
            [
                {"role": role, "content": content}
                for role, content in zip(_ROLES, (_QUERY, _DOCUMENT), strict=True)
            ],
            tokenize=False,
        )
    except Exception as error:  # Jinja raises many unrelated classes
        raise CheckpointRefused(f"{where} cannot be rendered: {error}") from error
    if not isinstance(text, str) or text.count(_QUERY) != 1 or text.count(_DOCUMENT) != 1:
        raise CheckpointRefused(
            f"{where} changes, repeats or leaves out a text, wanted query and document once each "
            "and as they are; name the prompt as --template"
        )
    beginning = tokenizer.bos_token
    if beginning and text.startswith(beginning):
        text = text.removeprefix(beginning)  # the tokenizer adds its own
    return Prompt(
        _checked(text.replace(_QUERY, "{query}").replace(_DOCUMENT, "{passage}"), where), where
    )


def _checked(template: object, where: str) -> str:
    if not isinstance(template, str) or any(
        template.count(field) != 1 for field in ("{query}", "{passage}")
    ):
        raise CheckpointRefused(
            f"{where} has the prompt {template!r}, wanted a text with {{query}} and {{passage}} "
            "once each"
        )
    if template.index("{query}") > template.index("{passage}"):
        raise CheckpointRefused(f"{where} puts the passage before the query; wanted it behind")
    return template
