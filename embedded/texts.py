"""Plain passages from the documentation packages of an ordinary Debian mirror.

Packages are downloaded and unpacked, never installed. A few regular expressions strip markup, which
is good enough for training text, not for display.
"""

from __future__ import annotations

import gzip
import html
import random
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# Documentation in Debian 12. Deliberately mixed: prose, definitions, science, systems.
SOURCES = (
    "debian-reference-en",
    "debian-faq",
    "developers-reference",
    "octave-doc",
    "maxima-doc",
    "postgresql-doc-15",
    "dict-gcide",
    "dict-foldoc",
    "dict-jargon",
    "fortunes",
    "perl-doc",
    "git-doc",
    "python-scipy-doc",
    "python-sklearn-doc",
    "python-statsmodels-doc",
    "python-astropy-doc",
    "python-pandas-doc",
    "sqlite3-doc",
    "vim-runtime",
    "python3.11-doc",
    "python-django-doc",
    "manpages",
    "manpages-dev",
)
SOURCE_LIMIT_BYTES = 5_000_000
LEAST_WORDS = (25, 25, 60, 110, 160)  # drawn per passage, so that lengths differ
LONGEST_WORDS = 200

_BLOCK = re.compile(
    r"</?(?:p|div|li|ul|ol|dl|dt|dd|h[1-6]|table|tr|td|th|br|section|body)\b[^>]*>", re.I
)
_DROP = re.compile(r"<(script|style|pre|head|nav|svg|math)\b.*?</\1\s*>", re.I | re.S)
_TAG = re.compile(r"<[^>]{0,2000}>", re.S)
_ROFF_LINE = re.compile(r"^[.'].*$", re.M)
_ROFF_FONT = re.compile(r"\\f[A-Z(]|\\[&|^c]|\\s[-+]?\d")
_SPACE = re.compile(r"\s+")
_WEBSTER = re.compile(r"\[(?:1913 Webster|PJC|WordNet[^\]]*|Webster[^\]]*)\]|\\[^\\]{1,60}\\")


@dataclass(frozen=True)
class Passage:
    """One passage: its Debian package, its text, and its headword if a dictionary gave it one."""

    source: str
    text: str
    headword: str = ""


def fetch(folder: Path) -> dict[str, str]:
    """Download and unpack every source below ``folder``; return package -> version."""
    archives = folder / "deb"
    archives.mkdir(parents=True, exist_ok=True)
    versions = {}
    for package in SOURCES:
        found = sorted(archives.glob(f"{package}_*.deb"))
        if not found:
            subprocess.run(["apt-get", "-qq", "download", package], cwd=archives, check=True)
            found = sorted(archives.glob(f"{package}_*.deb"))
        tree = folder / "tree" / package
        if not tree.exists():
            tree.parent.mkdir(exist_ok=True)
            subprocess.run(["dpkg-deb", "-x", str(found[-1]), str(tree)], check=True)
        versions[package] = found[-1].name.split("_")[1].replace("%3a", ":")
    return versions


def _read(path: Path) -> str:
    opener = gzip.open if path.suffix in (".gz", ".dz") else open
    limit_bytes = 40_000_000 if path.suffix == ".dz" else 4_000_000
    with opener(path, "rb") as file:
        return file.read(limit_bytes).decode("utf-8", "replace")


def _blocks(path: Path) -> Iterator[tuple[str, str]]:
    """Blocks of one file as (headword, text); the headword is empty outside dictionaries."""
    name = path.name.removesuffix(".gz").lower()
    if name.endswith(".dict.dz"):
        for entry in re.split(r"\n(?=\S)", _read(path)):
            head = entry.partition("\n")[0]
            # gcide repeats the headword with its pronunciation in the first line: keep both.
            word = re.split(r"[\\,(<\[]", head)[0].strip()
            yield word, _WEBSTER.sub(" ", entry).replace("{", "").replace("}", "")
    elif name.endswith((".html", ".htm")):
        text = _TAG.sub(" ", _BLOCK.sub("\n\n", _DROP.sub("\n\n", _read(path))))
        yield from (("", part) for part in html.unescape(text).split("\n\n"))
    elif re.search(r"\.[1-8](?:[a-z]+)?$", name) and "/man/" in str(path):
        text = _ROFF_FONT.sub("", _ROFF_LINE.sub("\n", _read(path))).replace("\\-", "-")
        yield from (("", part) for part in re.split(r"\n\s*\n", text))
    elif name.endswith(".pod"):
        text = re.sub(r"[A-Z]<+\s?([^<>]*?)\s?>+", r"\1", _read(path))
        yield from (("", part) for part in re.split(r"\n\s*\n", text) if part[:1] not in "= \t")
    elif name.endswith((".txt", ".info")) or ("/fortunes/" in str(path) and "." not in name):
        yield from (("", part) for part in re.split(r"\n\s*\n|\n%\n", _read(path)))


def _is_prose(text: str) -> bool:
    letters = sum(char.isalpha() or char == " " for char in text)
    return letters >= 0.85 * len(text) and text.isascii()


def _passages(path: Path, package: str) -> Iterator[Passage]:
    """Join neighbouring blocks of prose up to a drawn length, cut at the longest length."""
    rng = random.Random(path.name)
    held: list[str] = []
    least = rng.choice(LEAST_WORDS)
    for headword, block in _blocks(path):
        words = _SPACE.sub(" ", block).strip().split(" ")
        if len(words) < 4 or not _is_prose(" ".join(words)):
            continue
        if headword:
            if len(words) >= 12:
                yield Passage(package, " ".join(words[:LONGEST_WORDS]), headword)
            continue
        held += words
        if len(held) >= least:
            yield Passage(package, " ".join(held[:LONGEST_WORDS]))
            held, least = [], rng.choice(LEAST_WORDS)


def _of_source(tree: Path, package: str, rng: random.Random) -> list[Passage]:
    files = sorted(path for path in tree.rglob("*") if path.is_file() and not path.is_symlink())
    rng.shuffle(files)
    seen: set[str] = set()
    kept, size_bytes = [], 0
    for path in files:
        found = list(_passages(path, package))
        if path.suffix == ".dz":  # one huge file: sample it, or only its letter A would be used
            rng.shuffle(found)
        for passage in found:
            key = passage.text[:120].lower()
            if key in seen:
                continue
            seen.add(key)
            kept.append(passage)
            size_bytes += len(passage.text)
            if size_bytes >= SOURCE_LIMIT_BYTES:
                return kept
    return kept


def collect(folder: Path, seed: int) -> list[Passage]:
    """All passages of all sources, in a seeded order."""
    rng = random.Random(seed)
    passages = [p for name in SOURCES for p in _of_source(folder / "tree" / name, name, rng)]
    rng.shuffle(passages)
    return passages
