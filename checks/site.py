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
# Elements whose address a browser does not fetch by itself, and relations that it does not.
_FOLLOWED = ("a", "area", "form")
_UNFETCHED = {"canonical", "next", "prev", "alternate", "author", "license", "edit"}


class _Fetched(HTMLParser):
    """Collects the addresses that a browser fetches to show a page."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.addresses += _IN_STYLE.findall(given.get("style", ""))
        if tag in _FOLLOWED or (tag == "link" and _UNFETCHED & set(given.get("rel", "").split())):
            return
        self.addresses += [given[name] for name in ("src", "href", "data", "poster") if name in given]
        self.addresses += [part.split()[0] for part in given.get("srcset", "").split(",") if part]

    def handle_data(self, data: str) -> None:
        if self.get_starttag_text() and (self.get_starttag_text() or "").startswith("<style"):
            self.addresses += _IN_STYLE.findall(data)


def foreign(site: Path) -> Iterator[str]:
    """'FILE: ADDRESS' for everything that a page or a style sheet below `site` has from elsewhere."""
    for path in sorted(site.rglob("*")):
        if path.suffix in (".html", ".svg"):
            parser = _Fetched()
            parser.feed(path.read_text("utf-8"))
            addresses = parser.addresses
        elif path.suffix == ".css":
            addresses = _IN_STYLE.findall(path.read_text("utf-8"))
        else:
            continue
        yield from (f"{path.relative_to(site)}: {one}" for one in addresses if _FOREIGN.match(one))


def main() -> int:
    """0 when the site is built, every link leads somewhere and nothing comes from elsewhere."""
    # Its advertisement for the next version of MkDocs.
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    command = [str(MKDOCS), "build", "--strict", "--quiet", "--site-dir", str(SITE)]
    if subprocess.run(command, env=environment, check=False).returncode:
        return 1
    if strangers := list(foreign(SITE)):
        print("\n".join(["pages load from elsewhere, wanted files of the site:", *strangers]))
        return 1
    print(f"{SITE}/index.html: every link leads somewhere, and nothing comes from elsewhere")
    return 0


if __name__ == "__main__":
    sys.exit(main())
