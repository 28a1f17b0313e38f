"""Read a corpus: a directory, a data set on the hub, or the documentation that Python includes."""

import ast
import hashlib
import re
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from pydoc_data.topics import topics

from recipe.config import SdgConfig
from recipe.data.files import SUFFIXES
from recipe.errors import BadConfig, BadInput
from recipe.hub import HF, dataset_commit, dataset_parts, fetch_dataset
from recipe.progress import Log

PYTHON_DOCS = "python-docs"
_MARKDOWN_HEADING = re.compile(r"#{1,6}\s+(.+?)\s*#*")
_UNDERLINE = re.compile(r"[*=\-~^\"]{3,}")
_HEADING_WORDS = 14
_MAX_LISTED = 5


@dataclass(frozen=True)
class Section:
    """Text under one heading; `heading` is "" without one."""

    heading: str
    body: str

    @property
    def text(self) -> str:
        """Heading and body as one text."""
        return f"{self.heading}\n\n{self.body}".strip()


@dataclass(frozen=True)
class Document:
    """A file of the corpus, named by its path in it."""

    name: str
    sections: tuple[Section, ...]


def check_corpus(settings: SdgConfig) -> None:
    """Raise BadConfig or BadInput for a corpus that cannot be read; the hub is read later."""
    if not settings.corpus_dir.strip():
        raise BadConfig("found an empty corpus_dir; wanted the directory of your texts")
    rows = [ending for ending in settings.file_extensions if ending.lower() in SUFFIXES]
    if rows:
        raise BadConfig(
            f"found {', '.join(rows)} in file_extensions, whose files hold rows, not texts; with "
            "questions and answers in them, use `rerank prep data=…`, else write each text into a "
            "file of its own"
        )
    if settings.corpus_dir.startswith(HF):
        dataset_parts(settings.corpus_dir)
    else:
        read_corpus(settings, lambda _: None)


def identify(source: str) -> dict[str, str]:
    """Identify a corpus that is not a local directory: its commit on the hub, or a hash."""
    if source != PYTHON_DOCS:
        return dataset_commit(source)
    digest = hashlib.sha256()
    for name, sections in _python_docs():
        text = "\0".join([name, *(part for s in sections for part in (s.heading, s.body))])
        digest.update(f"{text}\n".encode())
    return {PYTHON_DOCS: digest.hexdigest()}


def read_corpus(settings: SdgConfig, log: Log) -> list[Document]:
    """All documents in the order of their names, without empty and repeated ones.

    Raises BadInput for a corpus that is missing or empty, and names files that are not UTF-8.
    """
    if settings.corpus_dir == PYTHON_DOCS:
        found: Sequence[tuple[str, list[Section]]] = _python_docs()
    else:
        folder = _local(settings.corpus_dir, log)
        found = list(_files(folder, settings.file_extensions))
    documents, seen = [], set()
    short = repeated = 0
    for name, sections in found:
        text = "\n".join(section.text for section in sections).strip()
        if len(text) < settings.min_text_length:
            short += 1
        elif text in seen:
            repeated += 1
        else:
            seen.add(text)
            documents.append(Document(name, tuple(sections)))
    for count, why in ((short, "too short"), (repeated, "the same as another")):
        if count:
            log(f"left out {count} document(s) of {len(found)}: {why}")
    if not documents:
        raise BadInput(
            f"found no text in {settings.corpus_dir}: {len(found)} file(s) with the suffixes "
            f"{settings.file_extensions}, {short} of them under min_text_length = "
            f"{settings.min_text_length} characters; check corpus_dir and file_extensions"
        )
    return documents[: settings.max_documents]


def _local(source: str, log: Log) -> Path:
    if not source.startswith(HF):
        folder = Path(source)
        if not folder.is_dir():
            raise BadInput(
                f"found no directory {source}; set corpus_dir to one with texts, or to "
                f"hf://ORG/DATASET@REVISION/FOLDER, or to {PYTHON_DOCS}"
            )
        return folder
    _, _, folder_name = dataset_parts(source)
    root = fetch_dataset(source, [f"{folder_name}/**"] if folder_name else None, log)
    folder = root / folder_name
    if not folder.is_dir():
        raise BadInput(f"found no folder {folder_name} in {source}; check its spelling")
    return folder


def _files(folder: Path, endings: Sequence[str]) -> Iterator[tuple[str, list[Section]]]:
    broken = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        hidden = any(part.startswith(".") for part in Path(name).parts)
        if hidden or path.suffix not in endings or not path.is_file():
            continue
        content = path.read_bytes()
        try:
            text = content.decode("utf-8-sig")
            name.encode()
        except UnicodeError:
            broken.append(name.encode(errors="backslashreplace").decode())
            continue
        if "\0" in text:
            broken.append(name)
            continue
        yield name, split_sections(text)
    if broken:
        shown = ", ".join(broken[:_MAX_LISTED]) + (", …" if len(broken) > _MAX_LISTED else "")
        raise BadInput(
            f"found {len(broken)} file(s) in {folder} that are not UTF-8: {shown}; convert or "
            "remove them, or remove their suffixes from file_extensions"
        )


def split_sections(text: str) -> list[Section]:
    """Split `text` at its headings: Markdown's, or underlined lines.

    A short first line before a blank line is a heading too.
    """
    lines = text.replace("\r\n", "\n").split("\n")
    sections, heading, body = [], "", list[str]()
    for number, line in enumerate(lines):
        found = _MARKDOWN_HEADING.fullmatch(line.strip())
        after = lines[number + 1].strip() if number + 1 < len(lines) else ""
        title = found[1] if found else line.strip()
        short = 0 < len(title.split()) <= _HEADING_WORDS
        first = short and not heading and not any(body) and not after and title[-1] not in ".:;,"
        if found or (short and _UNDERLINE.fullmatch(after)) or (first and number + 1 < len(lines)):
            sections.append(Section(heading, "\n".join(body).strip()))
            heading, body = title, []
        elif not (_UNDERLINE.fullmatch(line.strip()) and not any(body)):
            body.append(line)
    sections.append(Section(heading, "\n".join(body).strip()))
    return [section for section in sections if section.text]


@cache
def _python_docs() -> tuple[tuple[str, list[Section]], ...]:
    """The language reference of `help()`, and the docstrings of the standard library."""
    return tuple(_topics_and_docstrings())


def _topics_and_docstrings() -> Iterator[tuple[str, list[Section]]]:
    for name in sorted(topics):
        yield f"topics/{name}", split_sections(topics[name])
    library = Path(sysconfig.get_path("stdlib"))
    for path in sorted(library.glob("*.py")):
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        sections = [_docstring_section(node) for node in ast.walk(tree)]
        kept = [section for section in sections if section is not None]
        if kept:
            yield f"library/{path.stem}", kept


def _docstring_section(node: ast.AST) -> Section | None:
    """A docstring's summary as heading, the rest as body."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstring = ast.get_docstring(node) if isinstance(node, kinds) else None
    summary, blank, body = (docstring or "").partition("\n\n")
    return Section(" ".join(summary.split()), body.strip()) if blank else None
