"""A hook of MkDocs: what links of docs/ to other files of the repository become on the site.

Where the repository is browsed, `[log](../LOG.md)` leads to the file. The site has no such file and
knows no address of the repository, so it names the path.
"""

import re
from typing import Any

_OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./([^)#]+)(?:#[^)]*)?\)")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """MkDocs' event: the text of one page before it is rendered."""
    return _OUTSIDE.sub(_named, markdown)


def _named(link: "re.Match[str]") -> str:
    label, path = link.groups()
    return f"`{path}`" if label == path else f"{label} (`{path}`)"
