"""Drives the browser for checks/page.py: python -m checks.page_browser ADDRESS BROWSER OUT. Needs
playwright and nothing else. Here the page of a model of texts; checks/page_pictures.py has others.
"""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from playwright.sync_api import BrowserContext, Page, sync_playwright

DESK, PHONE = (1200, 900), (390, 844)
WIDTHS = {"desk": DESK, "phone": PHONE}
PASSAGES = [
    "The weather is nice today",
    "Machine learning is a subset of AI",
    "Deep learning uses neural networks",
]
QUERY = "What is machine learning?"
# Reached only by a hang.
PATIENCE_MS, POLL_MS = 120_000, 50

Check = Callable[[Page, Path], None]


def until(page: Page, true: str) -> None:
    """Wait for a JavaScript expression. The browser driver's own wait evaluates strings inside the
    page, which the page's policy forbids."""
    for _ in range(PATIENCE_MS // POLL_MS):
        if page.evaluate(true):
            return
        page.wait_for_timeout(POLL_MS)
    raise AssertionError(f"waited in vain for {true}")


def ask(page: Page, query: str = QUERY, passages: list[str] = PASSAGES) -> None:
    """Fill in the form."""
    page.fill("#query", query)
    page.fill("#passages", "\n".join(passages))


def order(page: Page) -> list[int]:
    """The displayed ranking, as indexes of the passages."""
    page.wait_for_selector("#ranking li")
    texts = page.locator("#ranking .text").all_inner_texts()
    return [PASSAGES.index(text) for text in texts]


def widths(page: Page) -> list[float]:
    """The bars' lengths, in pixels."""
    boxes = [bar.bounding_box() for bar in page.locator("#ranking .bar").all()]
    return [box["width"] for box in boxes if box]


def ranks(page: Page, out: Path) -> None:
    """A ranking appears at Ctrl+Enter: best first, bars, logit, relevance, tokens, stages"""
    ask(page)
    page.press("#query", "Control+Enter")
    found = order(page)
    assert sorted(found) == [0, 1, 2], found
    assert found[0] == 1, found
    assert widths(page) == sorted(widths(page), reverse=True)
    figures = page.inner_text("#figures")
    for word in ("3 passages", "tokens", "tokenize", "queue", "engine"):
        assert word in figures, figures
    first = page.locator("#ranking li").first.inner_text()
    assert "logit" in first, first
    assert "relevance" in first, first
    (out / "shown-nim.json").write_text(json.dumps(found))


def speaks(page: Page, out: Path) -> None:
    """Every dialect shows the same order"""
    ask(page)
    options = page.locator("#dialect option")
    names = [str(option.get_attribute("value")) for option in options.all()]
    assert len(names) >= 6, names
    wanted = json.loads((out / "shown-nim.json").read_text())
    for name in names:
        page.select_option("#dialect", name)
        page.click("#rank")
        until(page, "document.querySelector('#rank').ariaDisabled !== 'true'")
        assert page.locator("#problem").is_hidden(), (name, page.inner_text("#problem"))
        if name != "embeddings":  # another model, another order
            assert order(page) == wanted, name
    page.select_option("#dialect", "nim")


def complains(page: Page, out: Path) -> None:
    """Errors of the page and of the server are shown as text"""
    ask(page, query=" ")
    page.click("#rank")
    assert "query" in page.inner_text("#problem").lower()
    ask(page, passages=[])
    page.click("#rank")
    assert "passage" in page.inner_text("#problem")
    page.select_option("#truncate", "NONE")
    ask(page, passages=["word " * 9000])
    page.click("#rank")
    until(page, "document.querySelector('#problem').textContent.includes('exceeds')")
    assert page.locator("#answer").is_hidden()
    page.screenshot(path=out / "problem.png", full_page=True)
    page.select_option("#truncate", "END")
    page.click("#rank")
    page.wait_for_selector("#ranking li")
    assert "1 cut to fit" in page.inner_text("#figures")
    assert page.locator("#problem").is_hidden()


def copies(page: Page, out: Path) -> None:
    """curl and Python code is copied to the clipboard"""
    ask(page)
    for name in ("curl", "python"):
        page.click(f'[data-copies="{name}"]')
        until(page, "document.querySelector('#copied').textContent === 'Copied.'")
        copied = page.evaluate("navigator.clipboard.readText()")
        assert QUERY in copied, copied
        (out / f"copied-nim-{name}.txt").write_text(copied)


def takes_files(page: Page, out: Path) -> None:
    """A file's lines become the passages, chosen or dropped"""
    file = out / "passages.txt"
    file.write_text("\n\n".join(PASSAGES) + "\n")
    page.fill("#passages", "")
    page.set_input_files("#file", file)
    until(page, "document.querySelector('#count').textContent.startsWith('(3')")
    page.fill("#passages", "")
    page.evaluate(
        """text => {
            const carried = new DataTransfer();
            carried.items.add(new File([text], "dropped.txt"));
            document.querySelector("#passages").dispatchEvent(
                new DragEvent("drop", {dataTransfer: carried, bubbles: true, cancelable: true}));
        }""",
        "one\ntwo\n",
    )
    until(page, "document.querySelector('#count').textContent.startsWith('(2')")


def takes_no_pictures(page: Page, out: Path) -> None:
    """A picture is refused in words where the model takes texts, and is not offered"""
    assert "picture" not in page.inner_text("form").lower()
    assert ".png" not in str(page.get_attribute("#file", "accept"))
    before = page.input_value("#passages")
    page.set_input_files("#file", out / "pictures" / "page-1.png")
    until(page, "!document.querySelector('#problem').hidden")
    assert page.inner_text("#problem") == "page-1.png is a picture, and the model takes texts only."
    assert page.input_value("#passages") == before
    assert page.locator("#pictures li").count() == 0


def needs_no_mouse(page: Page, _: Path) -> None:
    """Tab reaches every control in their order, Enter ranks"""
    ask(page)
    page.focus("#query")
    seen = ["query"]
    for _step in range(6):
        page.keyboard.press("Tab")
        seen.append(str(page.evaluate("document.activeElement.id")))
    assert seen[:6] == ["query", "passages", "file", "dialect", "truncate", "rank"], seen
    page.focus("#rank")
    page.keyboard.press("Enter")
    page.wait_for_selector("#ranking li")
    until(page, "document.activeElement.id === 'answer-heading'")


def shows_markup_as_text(page: Page, _: Path) -> None:
    """A passage of markup is shown, not run"""
    ask(page, passages=["<img src=x onerror=document.title='run'> markup", "plain"])
    page.click("#rank")
    page.wait_for_selector("text=onerror")
    assert page.title() == "Try the reranker"


def fits(page: Page, _: Path) -> None:
    """Nothing overflows sideways"""
    ask(page, passages=["x" * 400, *PASSAGES])
    page.click("#rank")
    page.wait_for_selector("#ranking li")
    room = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert room[0] <= room[1], room


def documents(page: Page, out: Path) -> None:
    """The documentation lists every operation, with examples"""
    page.goto(page.url.rstrip("/") + "/docs")
    page.wait_for_selector("main details")
    openapi = page.evaluate("fetch('/openapi.json').then(reply => reply.json())")
    wanted = sum(len(methods) for methods in openapi["paths"].values())
    assert page.locator("main > section > details").count() == wanted
    page.click("summary:has-text('/v1/ranking')")
    assert page.locator("text=Request, for example").first.is_visible()
    page.screenshot(path=out / "docs.png", full_page=False)


CHECKS: tuple[Check, ...] = (
    *(ranks, speaks, complains, copies, takes_files, takes_no_pictures, needs_no_mouse),
    *(shows_markup_as_text, fits, documents),
)


def drive(checks: Sequence[Check]) -> int:
    """All checks at both widths, as the arguments say; prints one line each, 1 if one failed."""
    address, browser_path, folder = sys.argv[1:4]
    out = Path(folder)
    failed = 0
    with sync_playwright() as playwright:
        for name, (width, height) in WIDTHS.items():
            # Without its sandbox, because the checks may run as root.
            browser = playwright.chromium.launch(
                executable_path=browser_path, args=["--no-sandbox"]
            )
            context = browser.new_context(viewport={"width": width, "height": height})
            context.grant_permissions(["clipboard-read", "clipboard-write"], origin=address)
            context.set_default_timeout(PATIENCE_MS)
            for check in checks:
                failed += not _passes(check, context, address, out, name)
            context.close()
    return 1 if failed else 0


def _passes(check: Check, context: BrowserContext, address: str, out: Path, width: str) -> bool:
    page = context.new_page()
    trouble: list[str] = []
    page.on("pageerror", lambda error: trouble.append(f"script error: {error}"))
    page.on("console", lambda line: trouble.append(line.text) if _is_trouble(line) else None)
    page.on("request", lambda request: _note_stranger(request, address, trouble))
    what = f"{(check.__doc__ or '').strip()} ({width})"
    try:
        page.goto(address)
        until(page, "document.querySelector('#dialect').options.length > 0")
        check(page, out)
        assert not trouble, trouble
    except Exception as error:
        print(f"check failed: {what}: {type(error).__name__}: {str(error)[:500]}", flush=True)
        return False
    else:
        print(f"check passed: {what}", flush=True)
        return True
    finally:
        whole = check is not documents
        page.screenshot(path=out / f"{width}-{check.__name__}.png", full_page=whole)
        page.close()


def _is_trouble(line: Any) -> bool:
    # The browser logs every status of 400 and more, which the page then shows as text.
    return line.type in ("error", "warning") and "the server responded with" not in line.text


def _note_stranger(request: Any, address: str, trouble: list[str]) -> None:
    if not request.url.startswith((address, "data:")):
        trouble.append(f"asked {request.url}")


if __name__ == "__main__":
    sys.exit(drive(CHECKS))
