"""The parts of docs/ that code writes, and what the site makes of links out of it."""

import pytest

from tools.mkdocs_hook import on_page_markdown
from tools.write_docs import PARTS, ROOT, renewed


@pytest.mark.parametrize("page", PARTS)
def test_generated_parts_are_the_codes(page: str) -> None:
    assert renewed(page) == (ROOT / "docs" / page).read_text("utf-8"), "run `make docs`"


def test_a_page_without_its_marks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PARTS, "client.md", {"metrics": str})
    with pytest.raises(
        ValueError, match=r"no part metrics in docs/client\.md, wanted its two marks"
    ):
        renewed("client.md")


def test_the_site_names_files_that_it_does_not_have() -> None:
    text = "[log](../LOG.md#top), [`x`](y.md), [a/b.md](../a/b.md) ![p](images/p.svg)"
    assert on_page_markdown(text) == "log (`LOG.md`), [`x`](y.md), `a/b.md` ![p](images/p.svg)"
