"""The prompt of rerankers that read query and passage as one text: where it is read.

In this order: an option, training.json (which this project's recipe writes beside the weights), a
chat template with the roles query and document, the family's published prompt. What a chat template
makes of a system message is the instruction, whose default is the folder's default prompt, or what
the template renders without one.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from exporter.errors import CheckpointRefused
from exporter.options import TEMPLATE_OPTION
from exporter.progress import print_line
from exporter.sentence_files import MODEL_FILE, TOKENIZER_CONFIG, default_prompt, read_json
from runtime.profile import FIELDS, check_instruction
from runtime.template import INSTRUCTION, filled

TRAINING_FILE = "training.json"
TRAINED_LIMIT = "rerank_max_length"
_TRAINED_PROMPT = "prompt_template"
_CHAT = "the chat template"
_JINJA_FILE = "chat_template.jinja"
# How chat templates write their special tokens.
_CHAT_TOKEN = re.compile(r"<\|[^\s<>|]+\|>")
_ROLES = ("query", "document")
_INSTRUCTS = "system"
# Private-use characters stand for the texts; blanks around them show whether a template trims.
_QUERY, _DOCUMENT, _INSTRUCTION = " \ue000 ", " \ue001 ", " \ue002 "


@dataclass(frozen=True)
class Prompt:
    """`template` has {query} and {passage}, and {instruction} before them if it has an
    `instruction`, its default; these, `instruction_format` and `tokenize_apart` are as in a
    ModelProfile. `origin` says where it was read; `written` is true for a prompt from the
    checkpoint's folder."""

    template: str
    origin: str
    written: bool = True
    instruction: str | None = None
    instruction_format: str | None = None
    tokenize_apart: bool = False

    @property
    def filled(self) -> str:
        """The template with its default instruction."""
        return filled(self.template, self.instruction, self.instruction_format)


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
    for message in _suspicious(prompt.filled, tokenizer):
        print_line(f"the prompt of {prompt.origin} {message}")
    return prompt


def _chosen(
    root: Path, tokenizer: PreTrainedTokenizerBase, published: Prompt, requested: Prompt | None
) -> Prompt:
    if requested is not None:
        requested = replace(requested, tokenize_apart=published.tokenize_apart)
        if INSTRUCTION in requested.template:
            requested = replace(
                requested,
                instruction=published.instruction,
                instruction_format=published.instruction_format,
            )
        return _checked(requested)
    found = [prompt for prompt in (_trained(root), _chat(root, tokenizer)) if prompt is not None]
    if len({prompt.filled for prompt in found}) > 1:
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
    if not isinstance(found, str):
        raise CheckpointRefused(
            f"{TRAINING_FILE} has {_TRAINED_PROMPT} = {found!r}, wanted a text; correct it"
        )
    return _checked(Prompt(found, f"{TRAINING_FILE} ({_TRAINED_PROMPT})"))


def _chat(root: Path, tokenizer: PreTrainedTokenizerBase) -> Prompt | None:
    """The chat template if it has both roles; other templates are for generating text."""
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
    plain = _rendered(tokenizer)
    if plain.count(_QUERY) != 1 or plain.count(_DOCUMENT) != 1:
        raise CheckpointRefused(
            f"{_CHAT} changes, repeats or leaves out a text, wanted query and document once each "
            f"and as they are; name the prompt as {TEMPLATE_OPTION}"
        )
    told = _rendered(tokenizer, _INSTRUCTION) if _INSTRUCTS in str(source) else plain
    written = default_prompt(root)
    template, default = plain, None
    ahead, found, behind = told.partition(_INSTRUCTION)
    optional = len(ahead) + len(behind) <= len(plain)
    optional = optional and plain.startswith(ahead) and plain.endswith(behind)
    if found and (written or optional):
        template = told
        default = written or plain[len(ahead) : len(plain) - len(behind)]
    elif written:
        raise CheckpointRefused(
            f"{MODEL_FILE} has the default prompt {written!r}, which {_CHAT} leaves out; remove "
            "one of the two"
        )
    beginning = tokenizer.bos_token
    if beginning and tokenizer("")["input_ids"][:1] == [tokenizer.bos_token_id]:
        template = template.removeprefix(beginning)  # the tokenizer adds its own
    marks = {_QUERY: "{query}", _DOCUMENT: "{passage}", _INSTRUCTION: INSTRUCTION}
    for mark, name in marks.items():
        template = template.replace(mark, name)
    origin = f"{_CHAT} ({_chat_file(tokenizer)})"
    return _checked(Prompt(template, origin, instruction=default))


def _rendered(tokenizer: PreTrainedTokenizerBase, instruction: str | None = None) -> str:
    """What the chat template makes of the marks, with a system message if there is an
    `instruction`."""
    messages = [
        {"role": role, "content": content}
        for role, content in zip(_ROLES, (_QUERY, _DOCUMENT), strict=True)
    ]
    if instruction is not None:
        messages.insert(0, {"role": _INSTRUCTS, "content": instruction})
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False))
    except Exception as error:  # Jinja raises many unrelated classes
        raise CheckpointRefused(
            f"{_CHAT} cannot be rendered ({error}), wanted one for the roles query and document; "
            f"correct it, or name the prompt as {TEMPLATE_OPTION}"
        ) from error


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


def _checked(prompt: Prompt) -> Prompt:
    where, template = prompt.origin, prompt.template
    if any(template.count(field) != 1 for field in FIELDS):
        raise CheckpointRefused(
            f"{where} has the prompt {template!r}, wanted a text with {{query}} and {{passage}} "
            "once each; correct it"
        )
    if template.index("{query}") > template.index("{passage}"):
        raise CheckpointRefused(
            f"{where} puts the passage before the query, wanted it after; such a model cannot be "
            "exported"
        )
    try:
        check_instruction(template, prompt.instruction)
    except ValueError as error:
        raise CheckpointRefused(f"{where}: {error}; name the instruction in the text") from None
    return prompt
