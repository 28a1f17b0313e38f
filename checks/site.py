"""`make docs`: build docs/ into build/site, and see that its pages load nothing from elsewhere.

MkDocs itself finds links and anchors that lead nowhere, and pages without a place in the menu.
Links that a reader follows may lead elsewhere; scripts, styles, fonts and pictures may not.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

MKDOCS = Path(".venvs/docs/bin/mkdocs")
SITE = Path("build/site")
_FOREIGN = re.compile(r"\s*(?:[a-z][a-z0-9+.-]*:)?//", re.IGNORECASE)
_IN_STYLE = re.compile(r"(?:url\(|@import)\s*[\"']?([^\"')\s;]+)", re.IGNORECASE)
_STYLE = re.compile(r"<style\b[^>]*>(.*?)</style>", re.IGNORECASE | re.DOTALL)
# What a browser fetches only when a reader follows it.
_FOLLOWED = {"a", "area", "form"}
_FOLLOWED_RELATIONS = {"canonical", "next", "prev", "alternate", "author", "license", "edit"}
_ADDRESSES = {"src", "href", "data", "poster"}


class _Fetched(HTMLParser):
    """Collects the addresses that a browser fetches to show a page."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.addresses += _IN_STYLE.findall(given.get("style", ""))
        relations = set(given.get("rel", "").split())
        if tag in _FOLLOWED or (tag == "link" and relations & _FOLLOWED_RELATIONS):
            return
        self.addresses += [value for name, value in given.items() if name in _ADDRESSES]
        self.addresses += [part.split()[0] for part in given.get("srcset", "").split(",") if part]


def foreign(site: Path) -> Iterator[str]:
    """'FILE: ADDRESS' for whatever a page or a style sheet below `site` has from elsewhere."""
    for path in sorted(site.rglob("*")):
        if path.suffix not in (".html", ".svg", ".css"):
            continue
        text = path.read_text("utf-8")
        page = _Fetched()
        if path.suffix != ".css":
            page.feed(text)
        styles = [text] if path.suffix == ".css" else _STYLE.findall(text)
        addresses = page.addresses + [one for style in styles for one in _IN_STYLE.findall(style)]
        yield from (f"{path.relative_to(site)}: {one}" for one in addresses if _FOREIGN.match(one))


def main() -> int:
    """0 when the site is built, every link leads somewhere and nothing comes from elsewhere."""
    # Its advertisement for the next version of MkDocs.
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    # Not --quiet: it hides warnings from --strict too.
    command = [str(MKDOCS), "build", "--strict", "--site-dir", str(SITE)]
    if subprocess.run(command, env=environment, check=False).returncode:
        return 1
    if strangers := list(foreign(SITE)):
        print("\n".join(["pages load from elsewhere, wanted files of the site:", *strangers]))
        return 1
    print(f"{SITE}/index.html: every link leads somewhere, and nothing comes from elsewhere")
    return 0


if __name__ == "__main__":
    sys.exit(main())
