"""What `make docs` calls a page that loads from elsewhere."""

from pathlib import Path

import pytest

from checks.site import foreign


@pytest.mark.parametrize(
    "markup",
    [
        '<script src="https://cdn.example/a.js"></script>',
        "<script src=//cdn.example/a.js></script>",
        '<link rel="stylesheet" href="HTTP://cdn.example/a.css">',
        '<link rel="preconnect" href="https://fonts.example">',
        '<img srcset="a.png 1x, https://cdn.example/b.png 2x">',
        '<p style="background: url(https://cdn.example/b.png)">',
        '<style>@import "https://fonts.example/a.css";</style>',
        '<iframe src="https://video.example/1"></iframe>',
    ],
)
def test_a_page_that_loads_from_elsewhere_is_named(tmp_path: Path, markup: str) -> None:
    (tmp_path / "page.html").write_text(markup)
    (found,) = foreign(tmp_path)
    assert found.startswith("page.html: ")


def test_a_style_sheet_that_loads_from_elsewhere_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.css").write_text("@font-face { src: url('https://fonts.example/a.woff2') }")
    assert list(foreign(tmp_path)) == ["a.css: https://fonts.example/a.woff2"]


def test_links_and_files_of_the_site_are_not_named(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(
        '<a href="https://example.org">x</a> <link rel="canonical" href="https://example.org">'
        '<script src="assets/a.js"></script> <img src="data:image/png;base64,AA==">'
        '<style>a { background: url("b.png") }</style>'
    )
    assert list(foreign(tmp_path)) == []
