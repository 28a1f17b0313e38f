"""Write the README's generated part, the environment table: `make docs`."""

from pathlib import Path

from runtime.outputs import write_atomic
from server.settings import environment_table

README = Path(__file__).resolve().parent.parent / "README.md"
BEGIN, END = "<!-- environment:begin -->\n", "<!-- environment:end -->\n"


def renewed(text: str) -> str:
    """`text` with the part between the markers regenerated."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{environment_table()}{END}{after}"


if __name__ == "__main__":
    write_atomic(README, renewed(README.read_text("utf-8")).encode())
