"""What the README says that code can state."""

import re

from tools.write_readme import README, renewed

ROOT = README.parent


def test_the_environment_table_is_the_codes() -> None:
    text = README.read_text("utf-8")
    assert renewed(text) == text, "run `make docs`"


def test_every_make_target_that_documents_name_exists() -> None:
    targets = set(
        re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    )
    for document in ROOT.glob("*.md"):
        named = set(re.findall(r"`make ([a-z0-9-]+)", document.read_text("utf-8")))
        assert named <= targets, document.name


def test_every_link_to_a_file_leads_somewhere() -> None:
    for document in ROOT.glob("*.md"):
        links = re.findall(r"\]\(([^)#:]+)\)", document.read_text("utf-8"))
        assert [link for link in links if not (ROOT / link).exists()] == []
