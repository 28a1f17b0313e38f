"""Options for facts that no file of a checkpoint says.

A fact that an option decided has the option's name as its origin in the manifest, so that an
artifact is verified later without the option.
"""

from collections.abc import Iterable
from pathlib import Path

from exporter.errors import ExportError
from exporter.progress import print_line
from runtime.model_files import read_bounded

ADAPTER_OPTION = "--adapter"
MAX_TOKENS_OPTION = "--max-tokens"
POOLING_OPTION = "--pooling"
PREFIX_OPTION = "--prefix"
PROFILE_OPTION = "--profile"
TEMPLATE_OPTION = "--template"
_TEMPLATE_BYTES = 1 << 20
_INPUT_TYPES = ("query", "passage")


def read_template(value: str) -> tuple[str, str]:
    """The template in `value`, a file or the text itself, and its origin.

    A file is UTF-8 and is used as it is, except for one newline at its end, which editors add and
    Jinja drops as well. Raises ExportError.
    """
    path = Path(value)
    try:
        # A text may be longer than a file name can be.
        there = value != "" and path.exists()
    except (OSError, ValueError):
        there = False
    if there:
        return _of_file(path), f"{TEMPLATE_OPTION} {path.name}"
    if not ("{query}" in value or "{passage}" in value):
        raise ExportError(
            f"found {TEMPLATE_OPTION} {value[:200]!r}, which is no file and has no {{passage}}; "
            "wanted the path of a file, or a text with {query} and {passage}"
        )
    _refuse_double_braces(value, TEMPLATE_OPTION)
    _refuse_half_characters(value, TEMPLATE_OPTION)
    _warn_of_backslashes(value, TEMPLATE_OPTION)
    return value, TEMPLATE_OPTION


def _of_file(path: Path) -> str:
    try:
        raw = read_bounded(path, _TEMPLATE_BYTES)
        template = raw.decode("utf-8")
    except OSError as error:
        raise ExportError(
            f"cannot read the template {path}: {error.strerror}; wanted a text file"
        ) from error
    except UnicodeDecodeError as error:
        raise ExportError(
            f"the template {path} is not UTF-8 (byte {error.start}); save it as UTF-8"
        ) from error
    if template.startswith("\ufeff"):
        raise ExportError(
            f"the template {path} begins with a byte order mark, which would be read as part of "
            "every prompt; save it as UTF-8 without one"
        )
    _refuse_double_braces(template, str(path))
    for end in ("\r\n", "\n"):
        if template.endswith(end):
            template = template.removesuffix(end)
            print_line(f"the newline at the end of {path.name} is not part of the template")
            break
    if "\r" in template:
        print_line(
            f"{path.name} has carriage returns (line ends of Windows), which are kept as they are"
        )
    return template


def read_prefixes(value: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Prefixes by input type from pairs of type and text; an empty mapping if all are empty.

    A type that is not named has an empty prefix. Raises ExportError.
    """
    found: dict[str, str] = {}
    for kind, text in value:
        if kind in found:
            raise ExportError(f"found {PREFIX_OPTION} {kind}= more than once, wanted one text")
        _refuse_half_characters(text, PREFIX_OPTION)
        _warn_of_backslashes(text, PREFIX_OPTION)
        found[kind] = text
    if not any(found.values()):
        return {}
    return {kind: found.get(kind, "") for kind in _INPUT_TYPES}


def _refuse_double_braces(template: str, where: str) -> None:
    """Refuse the doubled braces of Jinja and of escapes in str.format."""
    for field in ("{query}", "{passage}"):
        if "{" + field + "}" in template:
            raise ExportError(
                f"found {{{field}}} in {where}, wanted {field}, with one pair of braces"
            )


def _refuse_half_characters(text: str, option: str) -> None:
    """Bytes of a command line that are not UTF-8 become surrogates (PEP 383)."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ExportError(
            f"the text of {option} is not UTF-8 (character {error.start}); set the terminal to it"
        ) from error


def _warn_of_backslashes(text: str, option: str) -> None:
    if "\\n" in text or "\\t" in text:
        advice = ", or name a file" if option == TEMPLATE_OPTION else ""
        print_line(
            f"{option} has a backslash and a letter (\\n or \\t), which are two characters of the "
            f"text; for a newline write one: $'…\\n…' in the shell{advice}"
        )
