"""Read files of a folder for the witnesses; shares nothing with the exporter's own reading."""

from pathlib import Path
from typing import Any, TypeVar

import msgspec
import transformers
from transformers import AutoTokenizer, PreTrainedConfig

from exporter.errors import NoWitness
from exporter.witness.base import trying
from runtime.postprocess import InputType

_MODULES = "modules.json"
_TRAINING = "training.json"
_PROMPTS = "config_sentence_transformers.json"
# sentence-transformers' names of prompts, in the order in which it looks for them.
PROMPT_NAMES: dict[InputType, tuple[str, ...]] = {
    "query": ("query",),
    "passage": ("document", "passage", "corpus"),
}

_T = TypeVar("_T")
_D = TypeVar("_D")


class Module(msgspec.Struct, frozen=True):
    """One entry of modules.json."""

    type: str
    path: str = ""


class _Training(msgspec.Struct, frozen=True):
    """training.json, which this project's recipe writes beside the weights."""

    prompt_template: str | None = None


class _Settings(msgspec.Struct, frozen=True):
    """config_sentence_transformers.json."""

    prompts: dict[str, str | None] | None = None


def read(path: Path, kind: type[_T], absent: _D) -> _T | _D:
    """The JSON in `path`; `absent` where there is no such file. Raises NoWitness."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        return absent
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise NoWitness(f"{path} cannot be used: {error}") from error


def modules_of(root: Path) -> list[Module]:
    """sentence-transformers' modules of the folder. Raises NoWitness."""
    return read(root / _MODULES, list[Module], [])


def prompts_of(root: Path) -> dict[str, str] | None:
    """The folder's prompts; an empty object means no prompt, None that the folder does not say.

    The file counts only beside a modules.json. Raises NoWitness."""
    if not modules_of(root):
        return None
    prompts = read(root / _PROMPTS, _Settings, _Settings()).prompts
    if prompts is None:
        return None
    return {kind: first_prompt(prompts, kind) for kind in PROMPT_NAMES}


def first_prompt(prompts: dict[str, str | None], kind: InputType) -> str:
    """The prompt for texts of this kind: the first that is not empty."""
    named = (prompts.get(name) for name in PROMPT_NAMES[kind])
    return next((prompt for prompt in named if prompt), "")


def tokenizer_of(directory: Path) -> Any:
    """The tokenizer of a family whose type is unknown to transformers: tokenizer_config.json alone
    decides. Raises NoWitness."""
    with trying(f"transformers cannot load the tokenizer in {directory}"):
        return AutoTokenizer.from_pretrained(
            directory, config=PreTrainedConfig(), trust_remote_code=False, local_files_only=True
        )


def both_ways(what: str) -> str:
    """The name of the witness that puts `what` together of transformers' classes."""
    return f"transformers {transformers.__version__}, {what}, read both ways"


def trained_template(root: Path) -> str | None:
    """The prompt that this project's recipe trained with; None without a training.json."""
    template = read(root / _TRAINING, _Training, _Training()).prompt_template
    if template is not None and template.count("{passage}") != 1:
        raise NoWitness(f"{_TRAINING} has a prompt_template without one {{passage}}")
    return template
