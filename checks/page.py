"""`make test-page`: the page in a real browser, used as a person would, at desktop and phone width.

Needs Debian's chromium and curl. checks/page_browser.py drives the browser in a separate
environment; the code copied from the page is run here, in a shell and in Python. Screenshots of
every step are in build/test-page.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

from checks.here import need_tools, not_here
from checks.serving import served

RANK, EMBED = Path("artifacts/rank"), Path("artifacts/embed")
OUT = Path("build/test-page")
PYTHON = Path(".venvs/page/bin/python")
DRIVER = Path(__file__).with_name("page_browser.py")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def main() -> int:
    """Run every check. 0 when all passed, else 1; prints one line a check."""
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        not_here("found no browser, wanted Debian's chromium: apt-get install chromium")
    need_tools({"curl": "curl"})
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    failed = 0
    with served(rank=RANK, embed=EMBED) as address:
        driver = [str(PYTHON), str(DRIVER), address, browser, str(OUT)]
        failed += subprocess.run(driver, check=False).returncode != 0
        for name, command in (
            ("curl", ["bash", "-euo", "pipefail"]),
            ("python", [sys.executable, "-"]),
        ):
            failed += not _runs(name, command)
    print(f"{'FAILED' if failed else 'all checks passed'}; screenshots: {OUT}/")
    return 1 if failed else 0


def _runs(name: str, command: list[str]) -> bool:
    """Whether the code copied from the page gives the ranking that the page showed."""
    copied = OUT / f"copied-{name}.txt"
    if not copied.is_file():
        print(f"check failed: the page copied no {name}")
        return False
    found = subprocess.run(
        command, input=copied.read_text(), capture_output=True, text=True, check=False
    )
    wanted = json.loads((OUT / "shown-order.json").read_text())
    text = found.stdout if name == "curl" else found.stdout.replace("'", '"')
    try:
        order = [item["index"] for item in json.loads(text)["rankings"]]
    except (ValueError, KeyError):
        order = []
    passed = order == wanted
    print(f"check {'passed' if passed else 'failed'}: the copied {name} ranks as the page does")
    if not passed:
        print(found.stdout[-500:], found.stderr[-500:])
    return passed


if __name__ == "__main__":
    sys.exit(main())
