"""The page of models of texts and images, as checks/page_browser.py: OUT is the folder of pictures
that checks/page.py draws.
"""

import base64
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from playwright.sync_api import Page

from checks.page_browser import Check, drive, until

QUERY = "when did sales rise?"
TEXTS = ["Sales rose in spring.", 'A "quoted" \\n costs $HOME and `date`.']
# The second is not drawn by Chromium, the third has a name that a shell would read otherwise.
CHOSEN = ["page-1.png", "scan.tif", "it's 5 $(dollars) `today`.png"]
CAPTION = "Sales by quarter: $1"
# All but TEI's; the last one asks another model.
DIALECTS = ["nim", "rerank", "cohere", "kserve", "embeddings"]
# Dispatches the event with a file, as browsers do.
_BRING = """([kind, name, type, data]) => {
    const carried = new DataTransfer();
    const bytes = Uint8Array.from(atob(data), letter => letter.charCodeAt(0));
    carried.items.add(new File([bytes], name, {type}));
    const options = {bubbles: true, cancelable: true};
    document.querySelector("#passages").dispatchEvent(
        kind === "drop" ? new DragEvent("drop", {dataTransfer: carried, ...options})
        : new ClipboardEvent("paste", {clipboardData: carried, ...options}));
}"""


def bring(page: Page, kind: str, file: Path, name: str = "", media_type: str = "image/png") -> None:
    """Drop or paste a file."""
    data = base64.b64encode(file.read_bytes()).decode()
    page.evaluate(_BRING, [kind, name or file.name, media_type, data])


def names(page: Page) -> list[str]:
    """Those of the listed pictures."""
    found = page.locator("#pictures .name").all()
    return [str(one.evaluate("e => e.firstChild.textContent")) for one in found]


def until_listed(page: Page, count: int) -> None:
    """Wait for so many pictures."""
    until(page, f"document.querySelectorAll('#pictures li').length === {count}")


def choose(page: Page, out: Path, chosen: Sequence[str] = CHOSEN) -> None:
    """Fill in the form; the first picture has a text beside it."""
    page.fill("#query", QUERY)
    page.fill("#passages", "\n".join(TEXTS))
    page.set_input_files("#file", [out / name for name in chosen])
    until_listed(page, len(chosen))
    page.get_by_role("textbox", name=f"Text beside {chosen[0]}").fill(CAPTION)


def rank(page: Page) -> list[int]:
    """The displayed ranking, as numbers of the passages."""
    page.click("#rank")
    until(page, "document.querySelector('#rank').ariaDisabled !== 'true'")
    assert page.locator("#problem").is_hidden(), page.inner_text("#problem")
    found = page.locator("#ranking li .figures").all_inner_texts()
    return [int(one.split("passage ")[1].split()[0]) - 1 for one in found]


def shows(page: Page, out: Path) -> None:
    """Pictures are ranked with texts, with thumbnails and the text beside them"""
    assert "at most 293 KiB each" in page.inner_text("#pictures-hint")
    choose(page, out)
    assert page.inner_text("#count") == "(5 of at most 64)"
    found = rank(page)
    assert sorted(found) == [0, 1, 2, 3, 4], found
    row = page.locator("#ranking li", has_text="page-1.png")
    assert CAPTION in row.inner_text()
    drawn = row.get_by_role("img", name="Thumbnail of page-1.png")
    assert drawn.evaluate("image => image.naturalWidth") > 0
    assert "TIFF" in page.locator("#ranking li", has_text="scan.tif").inner_text()


def speaks(page: Page, out: Path) -> None:
    """Every dialect with images shows the same order and copies its code; others are disabled"""
    choose(page, out)
    options = page.locator("#dialect option").all()
    open_ones = [str(o.get_attribute("value")) for o in options if o.is_enabled()]
    assert open_ones == DIALECTS, open_ones
    found = []
    for dialect in DIALECTS:
        page.select_option("#dialect", dialect)
        found.append(rank(page))
        for told in page.locator("#ranking .figures").all_inner_texts():
            assert "cosine" not in told or -1 <= float(told.split("cosine ")[1].split()[0]) <= 1
        (out / f"shown-{dialect}.json").write_text(json.dumps(found[-1]))
        for language in ("curl", "python"):
            page.evaluate("document.querySelector('#copied').textContent = ''")
            page.click(f'[data-copies="{language}"]')
            until(page, "document.querySelector('#copied').textContent === 'Copied.'")
            copied = page.evaluate("navigator.clipboard.readText()")
            assert len(copied) < 3000, len(copied)
            (out / f"copied-{dialect}-{language}.txt").write_text(copied)
    assert found[:-1] == [found[0]] * len(DIALECTS[:-1]), found


def takes(page: Page, out: Path) -> None:
    """Pictures are dropped and pasted; two of one name are told apart; one is removed"""
    bring(page, "drop", out / "page-1.png")
    until_listed(page, 1)
    bring(page, "paste", out / "page-2.png", "page-1.png")
    until_listed(page, 2)
    bring(page, "drop", out / "photo.jpg", media_type="")
    until_listed(page, 3)
    assert names(page) == ["page-1.png", "page-1-2.png", "photo.jpg"]
    assert page.inner_text("#taken") == "Added photo.jpg."
    assert "page-1-2.png" in page.inner_text("#curl")
    page.get_by_role("button", name="Remove page-1.png").click()
    bring(page, "drop", out / "page-1.png", "a\nEND\nb.png")
    until_listed(page, 3)
    assert names(page) == ["page-1-2.png", "photo.jpg", "a_END_b.png"]
    page.get_by_role("button", name="Remove a_END_b.png").click()
    assert page.inner_text("#taken") == "Removed a_END_b.png."
    page.fill("#passages", "")
    assert len(rank(page)) == 2


def complains(page: Page, out: Path) -> None:
    """Other files, pictures above a limit and broken ones are refused in words"""
    refused = {
        "report.pdf": "report.pdf is neither a text in UTF-8 nor a picture",
        "icon.svg": "icon.svg is a picture, but no PNG, JPEG, WebP, GIF, BMP or TIFF.",
        "large.png": "large.png has 300001 bytes, wanted at most 300000.",
    }
    page.set_input_files("#file", [out / name for name in [*refused, "page-1.png"]])
    until_listed(page, 1)
    problem = page.inner_text("#problem")
    for words in refused.values():
        assert words in problem, problem
    page.get_by_role("button", name="Remove page-1.png").click()
    page.select_option("#dialect", "tei")
    page.set_input_files("#file", out / "page-1.png")
    until(page, "document.querySelector('#problem').textContent.includes('texts only')")
    page.select_option("#dialect", "nim")
    page.set_input_files("#file", out / "cut.png")
    until_listed(page, 1)
    page.click("#rank")
    until(page, "document.querySelector('#problem').textContent.includes('status 400')")
    assert "passages[3].image: this image" in page.inner_text("#problem")


def needs_no_mouse(page: Page, out: Path) -> None:
    """Tab reaches each picture's button and text, and focus stays near when a picture goes"""
    choose(page, out, ["page-1.png", "page-2.png"])
    page.focus("#passages")
    seen = []
    for _ in range(6):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("document.activeElement.ariaLabel ?? document.activeElement.id"))
    assert seen == [
        *("file", "Remove page-1.png", "Text beside page-1.png"),
        *("Remove page-2.png", "Text beside page-2.png", "dialect"),
    ], seen
    page.focus("[aria-label='Remove page-1.png']")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.ariaLabel") == "Remove page-2.png"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "passages"


def fits(page: Page, out: Path) -> None:
    """Nothing overflows sideways"""
    choose(page, out)
    bring(page, "drop", out / "page-2.png", f"{'long' * 50}.png")
    until_listed(page, len(CHOSEN) + 1)
    page.locator("#pictures input").last.fill("x" * 300)
    rank(page)
    room = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert room[0] <= room[1], room


CHECKS: tuple[Check, ...] = (shows, speaks, takes, complains, needs_no_mouse, fits)

if __name__ == "__main__":
    sys.exit(drive(CHECKS))
