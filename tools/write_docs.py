"""Write the generated parts of docs/: `make docs`.

A part stands between <!-- NAME:begin --> and <!-- NAME:end -->.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from runtime.outputs import write_atomic
from server.metrics import families
from server.settings import environment_table

ROOT = Path(__file__).resolve().parent.parent
_OURS = "rerank_"
_EVERY_PROCESS = ("python_", "process_")


def _quick_start() -> str:
    """The section of the README."""
    text = (ROOT / "README.md").read_text("utf-8")
    _, _, rest = text.partition("## Quick start\n\n")
    return rest.partition("\n## ")[0]


def _metrics_table() -> str:
    lines = ["| metric | type | what |", "|---|---|---|"]
    for family in sorted(families(), key=lambda one: (not one.name.startswith(_OURS), one.name)):
        if not family.name.startswith(_EVERY_PROCESS):
            # As it is on the page: the client library adds a counter's ending there.
            name = f"{family.name}_total" if family.type == "counter" else family.name
            kind = "" if family.type == "unknown" else family.type
            lines.append(f"| `{name}` | {kind} | {family.documentation} |")
    return "\n".join(lines) + "\n"


# Page → part → what writes it.
PARTS: dict[str, Mapping[str, Callable[[], str]]] = {
    "index.md": {"quickstart": _quick_start},
    "environment.md": {"environment": environment_table},
    "operations.md": {"metrics": _metrics_table},
}


def renewed(page: str) -> str:
    """The text of docs/`page` with its generated parts written anew."""
    text = (ROOT / "docs" / page).read_text("utf-8")
    for name, write in PARTS[page].items():
        before, begin, rest = text.partition(f"<!-- {name}:begin -->\n")
        _, end, after = rest.partition(f"<!-- {name}:end -->")
        if not end:
            raise ValueError(f"found no part {name} in docs/{page}, wanted its two marks")
        text = f"{before}{begin}{write()}{end}{after}"
    return text


if __name__ == "__main__":
    for page in PARTS:
        write_atomic(ROOT / "docs" / page, renewed(page).encode())
