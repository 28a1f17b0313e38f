"""The fenced blocks of the documentation."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# The pages whose commands tests run, and the others.
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
OTHERS = (*ROOT.glob("[!R]*.md"), *ROOT.glob("*/README.md"), *ROOT.glob("[ce]*/*/README.md"))

COMMANDS = ("bash", "python")
LANGUAGES = (*COMMANDS, "json", "text", "toml", "yaml")
_FENCE = re.compile(r"^( *)```(.*?)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_NEEDS = re.compile(r"# needs: (.+)\n")


@dataclass(frozen=True)
class Fence:
    """One block: its page, the line where it begins, its language and its text, and whether it is
    part of what `make docs` writes."""

    page: Path
    line: int
    language: str
    text: str
    generated: bool

    @property
    def needs(self) -> tuple[str, ...]:
        """What it says in its first line that it needs."""
        found = _NEEDS.match(self.text)
        return tuple(found[1].split(", ")) if found else ()

    @property
    def place(self) -> str:
        """PATH:LINE."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def fences(page: Path) -> Iterator[Fence]:
    """All of them, in order."""
    text = page.read_text("utf-8")
    for found in _FENCE.finditer(text):
        before = text[: found.start()]
        generated = before.count(":begin -->") > before.count(":end -->")
        yield Fence(page, before.count("\n") + 1, found[2], found[3], generated)
