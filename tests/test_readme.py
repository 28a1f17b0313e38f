"""What the README and the pages of docs/ say that code can state.

`tests/test_docs_commands.py` runs their commands, `tests/tools/test_write_docs.py` compares their
generated parts.
"""

import json
import re
import tomllib
from pathlib import Path

import yaml

from runtime.profile import model_profile_names, target_profile_names
from server.variables import VARIABLES
from tests.fences import COMMANDS, LANGUAGES, OTHERS, PAGES, ROOT, fences

DOCS = ROOT / "docs"
DOCUMENTS = (*PAGES, *OTHERS)
_MOST_LINES = 130
_LINK = re.compile(r"\]\(([^)#:]*)(?:#([^)]*))?\)")
_VARIABLE = re.compile(r"\b(?:NIM|RERANK|EMBED|TRITON|OTEL|NGC|NVIDIA)_[A-Z][A-Z_]*[A-Z]\b")
# The client's, the GPU image's start, and Nvidia's libraries'.
_OF_OTHERS = {"RERANK_URL", "RERANK_BUILD_TARGET", "NVIDIA_TF32_OVERRIDE"}


def test_the_readme_stays_short() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= _MOST_LINES


def test_every_block_is_run_or_says_what_it_needs() -> None:
    """Without a `# needs:` a command is run by tests/test_docs_commands.py, which reads PAGES."""
    table = (DOCS / "index.md").read_text("utf-8").partition("| `# needs:` |")[2]
    known_needs = set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE))
    assert known_needs
    for page in PAGES:
        assert "~~~" not in page.read_text("utf-8"), page
        assert page.read_text("utf-8").count("```") == 2 * len(list(fences(page))), page
        for fence in fences(page):
            assert fence.language in LANGUAGES, fence.place
            assert set(fence.needs) <= known_needs, fence.place
            assert fence.needs == () or fence.language in COMMANDS, fence.place
            assert "# needs" not in fence.text.partition("\n")[2], fence.place


def test_every_make_target_that_documents_name_exists() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = set(re.findall(r"^([a-z0-9-]+):", makefile, re.MULTILINE))
    for document in DOCUMENTS:
        text = document.read_text("utf-8")
        lines = re.findall(r"(?:^|`)make ([^`#\n]+)", text, re.MULTILINE)
        named = {
            word
            for line in lines
            for word in line.split()
            if re.fullmatch("[a-z0-9][a-z0-9-]*", word)
        }
        assert named <= targets, document.name


def _anchors(page: Path) -> set[str]:
    """Those of its headings, as GitHub and MkDocs make them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_link_to_a_file_leads_somewhere() -> None:
    for document in DOCUMENTS:
        for path, anchor in _LINK.findall(document.read_text("utf-8")):
            target = document.parent / path if path else document
            assert target.exists(), f"{document}: {path}"
            assert not anchor or anchor in _anchors(target), f"{document}: {path}#{anchor}"


def test_every_profile_has_its_row() -> None:
    for page, names in (
        ("models.md", model_profile_names()),
        ("targets.md", target_profile_names()),
    ):
        text = (DOCS / page).read_text("utf-8")
        assert [name for name in names if f"`{name}`" not in text] == [], page


def test_every_page_is_in_the_index() -> None:
    index = (DOCS / "index.md").read_text("utf-8")
    pages = {page.name for page in DOCS.glob("*.md")} - {"index.md"}
    assert {name for name in pages if f"({name})" not in index} == set()


def test_variables_that_documents_name_are_known() -> None:
    for document in DOCUMENTS:
        named = set(_VARIABLE.findall(document.read_text("utf-8"))) - _OF_OTHERS
        assert [n for n in named if not any(row.matches(n) for row in VARIABLES)] == [], document


def test_examples_of_files_can_be_read() -> None:
    read = {"yaml": yaml.safe_load, "toml": tomllib.loads, "json": json.loads}
    for page in PAGES:
        for fence in fences(page):
            if fence.language in read:
                assert read[fence.language](fence.text), fence.place
