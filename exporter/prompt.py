"""The prompt of rerankers that read query and passage as one text: where it is read.

In this order: an option, training.json (which this project's recipe writes beside the weights), a
chat template with the roles query and document, the family's published prompt.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from exporter.errors import CheckpointRefused
from exporter.options import TEMPLATE_OPTION
from exporter.progress import print_line
from exporter.sentence_files import TOKENIZER_CONFIG, read_json

TRAINING_FILE = "training.json"
TRAINED_LIMIT = "rerank_max_length"
_TRAINED_PROMPT = "prompt_template"
_JINJA_FILE = "chat_template.jinja"
_FIELDS = ("{query}", "{passage}")
# How chat templates write their special tokens.
_CHAT_TOKEN = re.compile(r"<\|[^\s<>|]+\|>")
_ROLES = ("query", "document")
# Private-use characters stand for the two texts; blanks around them show whether a template trims.
_QUERY, _DOCUMENT = " \ue000 ", " \ue001 "


@dataclass(frozen=True)
class Prompt:
    """`template` has {query} and {passage}; `origin` says where it was read; `written` is true for
    a prompt from the checkpoint's folder."""

    template: str
    origin: str
    written: bool = True


def training_limit(root: Path) -> int | None:
    """The longest pair, in tokens, that training.json names. Raises CheckpointRefused."""
    found = _training(root).get(TRAINED_LIMIT)
    if found is None:
        return None
    if isinstance(found, bool) or not isinstance(found, int) or found < 1:
        raise CheckpointRefused(
            f"{TRAINING_FILE} has {TRAINED_LIMIT} = {found!r}, wanted a number from 1; correct it, "
            "or remove it"
        )
    return found


def find_prompt(
    root: Path, tokenizer: PreTrainedTokenizerBase, published: Prompt, requested: Prompt | None
) -> Prompt:
    """The prompt of the checkpoint in `root`.

    `requested` is the option's prompt, `published` the family's. Suspicious tokens are logged.
    Raises CheckpointRefused if two prompts differ and none was requested.
    """
    prompt = _chosen(root, tokenizer, published, requested)
    for message in _suspicious(prompt.template, tokenizer):
        print_line(f"the prompt of {prompt.origin} {message}")
    return prompt


def _chosen(
    root: Path, tokenizer: PreTrainedTokenizerBase, published: Prompt, requested: Prompt | None
) -> Prompt:
    if requested is not None:
        _checked(requested.template, requested.origin)
        return requested
    found = [prompt for prompt in (_trained(root), _chat(tokenizer)) if prompt is not None]
    if len({prompt.template for prompt in found}) > 1:
        listed = " and ".join(f"{prompt.template!r} ({prompt.origin})" for prompt in found)
        raise CheckpointRefused(
            f"found the prompts {listed}, wanted one; name the one that the model was trained with "
            f"as {TEMPLATE_OPTION}"
        )
    return found[0] if found else published


def _training(root: Path) -> dict[str, Any]:
    return read_json(root / TRAINING_FILE, dict[str, Any], absent={})


def _trained(root: Path) -> Prompt | None:
    found = _training(root).get(_TRAINED_PROMPT)
    if found is None:
        return None
    return Prompt(_checked(found, TRAINING_FILE), f"{TRAINING_FILE} ({_TRAINED_PROMPT})")


def _chat(tokenizer: PreTrainedTokenizerBase) -> Prompt | None:
    """The chat template if it has both roles; other templates are for generating text."""
    where = "the chat template"
    source = tokenizer.chat_template
    if isinstance(source, dict):  # several by name; this one is the default
        if "default" not in source and any(map(_joins, source.values())):
            raise CheckpointRefused(
                f"found chat templates named {', '.join(sorted(source))}, wanted one named default:"
                f" nothing says which is the prompt; name it as {TEMPLATE_OPTION}"
            )
        source = source.get("default")
    if source == "":
        raise CheckpointRefused(
            f"chat_template is empty; remove it, or name the prompt as {TEMPLATE_OPTION}"
        )
    if not _joins(source):
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
        raise CheckpointRefused(
            f"{where} cannot be rendered ({error}), wanted one for the roles query and document; "
            f"correct it, or name the prompt as {TEMPLATE_OPTION}"
        ) from error
    if not isinstance(text, str) or text.count(_QUERY) != 1 or text.count(_DOCUMENT) != 1:
        raise CheckpointRefused(
            f"{where} changes, repeats or leaves out a text, wanted query and document once each "
            f"and as they are; name the prompt as {TEMPLATE_OPTION}"
        )
    beginning = tokenizer.bos_token
    if beginning and tokenizer("")["input_ids"][:1] == [tokenizer.bos_token_id]:
        text = text.removeprefix(beginning)  # the tokenizer adds its own
    template = text.replace(_QUERY, "{query}").replace(_DOCUMENT, "{passage}")
    return Prompt(_checked(template, where), f"{where} ({_chat_file(tokenizer)})")


def _joins(source: object) -> bool:
    """Whether a chat template puts a query and a passage together; others generate text."""
    return isinstance(source, str) and all(role in source for role in _ROLES)


def _chat_file(tokenizer: PreTrainedTokenizerBase) -> str:
    """The file of the chat template, in the order in which transformers looks for it."""
    beside = (Path(tokenizer.name_or_path) / _JINJA_FILE).is_file()
    return _JINJA_FILE if beside else f"{TOKENIZER_CONFIG}, chat_template"


def _suspicious(template: str, tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """Messages about suspicious tokens in the template, as the tokenizer reads it."""
    for name in dict.fromkeys(_CHAT_TOKEN.findall(template)):
        pieces = tokenizer(name, add_special_tokens=False)["input_ids"]
        if tokenizer.get_vocab().get(name) not in pieces:
            yield f"has {name}, which is not a token here: it is read as {len(pieces)} pieces"
    sample = template.replace("{query}", "a").replace("{passage}", "a")
    bare = tokenizer(sample, add_special_tokens=False)["input_ids"]
    if tokenizer.unk_token_id is not None and tokenizer.unk_token_id in bare:
        yield "has characters that this tokenizer does not know: they become its unknown token"
    full = tokenizer(sample)["input_ids"]
    ends = (("begins", full[:2], bare[:1]), ("ends", full[-2:], bare[-1:]))
    for how, found, own in ends:
        if found == own * 2 and own[0] in tokenizer.all_special_ids:
            name = tokenizer.convert_ids_to_tokens(own[0])
            yield f"{how} with {name}, which the tokenizer adds as well: it occurs twice"


def _checked(template: object, where: str) -> str:
    if not isinstance(template, str) or any(template.count(field) != 1 for field in _FIELDS):
        raise CheckpointRefused(
            f"{where} has the prompt {template!r}, wanted a text with {{query}} and {{passage}} "
            "once each; correct it"
        )
    if template.index("{query}") > template.index("{passage}"):
        raise CheckpointRefused(
            f"{where} puts the passage before the query, wanted it after; such a model cannot be "
            "exported"
        )
    return template
