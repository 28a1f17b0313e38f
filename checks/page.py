"""`make test-page`: the page in a real browser, used as a person would, at desktop and phone width.

Needs Debian's chromium and curl. checks/page_browser.py and checks/page_pictures.py drive the
browser in a separate environment; the code copied from the page is run here, in a shell and in
Python. Screenshots of every step are in build/test-page.
"""

import ast
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from checks.here import need_tools, not_here
from checks.serving import served
from tests.tiny_vision import encoded, png

RANK, EMBED = Path("artifacts/rank"), Path("artifacts/embed")
VISION_RANK, VISION_EMBED = Path("artifacts/vl"), Path("artifacts/vl-embed")
OUT = Path("build/test-page")
PYTHON = Path(".venvs/page/bin/python")
PICTURES = OUT / "pictures"
# For the server and in the folder of pictures: the largest file that is taken, and one byte more.
MOST_BYTES = 300_000
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def main() -> int:
    """Run every check. 0 when all passed, else 1; prints one line a check."""
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        not_here("found no browser, wanted Debian's chromium: apt-get install chromium")
    need_tools({"curl": "curl"})
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    _draw_pictures()
    failed = 0
    with served(rank=RANK, embed=EMBED) as address:
        failed += _drive("checks.page_browser", address, browser, OUT)
        failed += not _all_run(OUT)
    limits = {"NIM_MAX_IMAGE_BYTES": str(MOST_BYTES)}
    with served(limits, rank=VISION_RANK, embed=VISION_EMBED) as address:
        failed += _drive("checks.page_pictures", address, browser, PICTURES)
        failed += not _all_run(PICTURES)
    print(f"{'FAILED' if failed else 'all checks passed'}; screenshots: {OUT}/")
    return 1 if failed else 0


def _drive(module: str, address: str, browser: str, out: Path) -> bool:
    """Whether a check of the module failed."""
    command = [str(PYTHON.absolute()), "-m", module, address, browser, str(out)]
    return subprocess.run(command, check=False).returncode != 0


def _draw_pictures() -> None:
    """Pictures of several kinds and shapes, and files that are none."""
    PICTURES.mkdir()
    page = png(425, 550)
    files = {
        "page-1.png": page,
        "page-2.png": png(640, 360),
        "it's 5 $(dollars) `today`.png": png(200, 200, 1),
        "scan.tif": encoded(Image.open(BytesIO(png(300, 90))), "TIFF"),
        "photo.jpg": encoded(Image.open(BytesIO(png(320, 240, 2))), "JPEG"),
        "cut.png": page[: len(page) // 2],
        "large.png": page.ljust(MOST_BYTES + 1, b"\0"),
        "report.pdf": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n",
        "icon.svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    }
    for name, content in files.items():
        (PICTURES / name).write_bytes(content)


def _all_run(folder: Path) -> bool:
    """Whether all code copied from the page, run in the folder, ranks as the page did."""
    copied = sorted(folder.glob("copied-*-*.txt"))
    if not copied:
        print(f"check failed: the page copied no code into {folder}")
    return bool(copied) and sum(not _runs(code) for code in copied) == 0


def _runs(copied: Path) -> bool:
    _, dialect, language = copied.stem.split("-")
    command = ["bash", "-euo", "pipefail"] if language == "curl" else [sys.executable, "-"]
    found = subprocess.run(
        command,
        input=copied.read_text(),
        cwd=copied.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        order = _order(*_REPLIES[language](found.stdout))
    except (ValueError, SyntaxError, KeyError, TypeError):
        order = []
    passed = order == json.loads((copied.parent / f"shown-{dialect}.json").read_text())
    verdict = "passed" if passed else "failed"
    print(f"check {verdict}: the copied {language} for {dialect} ranks as the page does")
    if not passed:
        print(found.stdout[-500:], found.stderr[-500:])
    return passed


def _from_curl(text: str) -> Iterator[Any]:
    """Replies in JSON, one behind the other."""
    while text:
        reply, end = json.JSONDecoder().raw_decode(text)
        yield reply
        text = text[end:].lstrip()


def _from_python(text: str) -> Iterator[Any]:
    return map(ast.literal_eval, text.splitlines())


_REPLIES = {"curl": _from_curl, "python": _from_python}


def _order(reply: Any, *more: Any) -> list[int]:
    """The ranking in the answer, or the answers, of any dialect of the page."""
    if more:
        (passages,) = more
        return _descending(_vectors(passages) @ _vectors(reply)[0])
    if "ranked_indices" in reply:
        return list(reply["ranked_indices"])
    if "outputs" in reply:
        data = {output["name"]: output["data"] for output in reply["outputs"]}
        return _descending(data["logit"])
    return [item["index"] for item in reply.get("rankings") or reply["results"]]


def _vectors(reply: Any) -> NDArray[np.float64]:
    """Of length 1."""
    found = np.array([item["embedding"] for item in reply["data"]])
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def _descending(scores: ArrayLike) -> list[int]:
    order: list[int] = np.argsort(-np.asarray(scores), kind="stable").tolist()
    return order


if __name__ == "__main__":
    sys.exit(main())
