"""The column `image` of a corpus: what it may say, and what is refused."""

import base64
import json
import os
from pathlib import Path

import pytest

from recipe.corpus_images import ImageText
from recipe.errors import BadInput
from recipe.evaluation.collection import read_collection
from tests.recipe.models.material import write_beir
from tests.tiny_vision import png

PICTURE = png(40, 30)
ENCODED = base64.b64encode(PICTURE).decode()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Questions about 24 passages, with one picture among them."""
    folder = write_beir(tmp_path / "beir", range(18, 24))
    (folder / "images").mkdir()
    (folder / "images" / "1.png").write_bytes(PICTURE)
    return folder


def add(folder: Path, **row: object) -> int:
    """Another row of the corpus; the number of its line."""
    file = folder / "corpus.jsonl"
    with file.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps({"_id": "new", **row}) + "\n")
    return len(file.read_text("utf-8").splitlines())


@pytest.mark.parametrize(
    "written",
    ["images/1.png", ENCODED, f"data:image/png;base64,{ENCODED}", f"data:;base64,{ENCODED}"],
)
@pytest.mark.parametrize("text", ["beside it", ""])
def test_an_image_is_read_when_it_is_needed(folder: Path, written: str, text: str) -> None:
    add(folder, text=text, image=written)
    found = read_collection(folder)
    document = found.document("new")
    assert isinstance(document, ImageText)
    assert document.image.size == (40, 30)
    passage = document.passage()
    assert (passage.text, passage.image) == (text, PICTURE)
    assert found.document("d1") == found.texts["d1"]
    document.image.decode()


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_an_image_after_a_byte_order_mark_and_in_windows_lines(folder: Path, encoding: str) -> None:
    file = folder / "corpus.jsonl"
    rows = [
        json.dumps({"_id": name, "text": "𝄞", "image": ENCODED}, ensure_ascii=False)
        for name in ("first", "last")
    ]
    text = "\n".join([rows[0], file.read_text("utf-8").rstrip(), rows[1]]).replace("\n", "\r\n")
    file.write_bytes(text.encode(encoding))
    found = read_collection(folder)
    assert list(found.images) == ["first", "last"]
    assert [image.read() for image in found.images.values()] == [PICTURE] * 2


def test_the_digest_is_that_of_the_images_too(folder: Path) -> None:
    plain = read_collection(folder).digest
    add(folder, text="a", image="images/1.png")
    before = read_collection(folder)
    (folder / "images" / "1.png").write_bytes(png(40, 30, seed=1))
    assert len({plain, before.digest, read_collection(folder).digest}) == 3
    with pytest.raises(BadInput, match=r"line 25: the image has changed"):
        before.images["new"].read()


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("images/2.png", r"found no image 'images/2.png'"),
        ("", "wanted a plain relative path"),
        ("../outside.png", "outside its directory"),
        ("/etc/hostname", "outside its directory"),
        ("images/out.png", "outside its directory"),
        ("images", "a directory"),
        ("images/pipe.png", "a FIFO"),
        ("images/text.png", "beginning of none of them"),
        ("https://example.com/1.png", "an address, and nothing is fetched"),
        ("file:///etc/hostname", "an address, and nothing is fetched"),
        ("data:image/png,abc", "data URL of another encoding"),
        (ENCODED[:-8] + "-_-_-_==", "no base64"),
        ("data:image/png;base64,AAAA", "beginning of none of them"),
    ],
)
def test_an_image_that_cannot_be_read_names_its_row(
    folder: Path, written: str, message: str
) -> None:
    (folder.parent / "outside.png").write_bytes(PICTURE)
    (folder / "images" / "out.png").symlink_to(folder.parent / "outside.png")
    (folder / "images" / "text.png").write_text("no picture")
    os.mkfifo(folder / "images" / "pipe.png")
    number = add(folder, text="a", image=written)
    with pytest.raises(BadInput, match=message) as caught:
        read_collection(folder)
    assert str(caught.value).startswith(f"corpus.jsonl, line {number}: ")


def test_one_that_ends_early_is_found_by_looking_at_it(folder: Path) -> None:
    (folder / "images" / "1.png").write_bytes(PICTURE[:-40])
    number = add(folder, image="images/1.png")
    image = read_collection(folder).images["new"]
    with pytest.raises(BadInput, match=rf"line {number}: the image cannot be read"):
        image.decode()


def test_a_row_has_a_text_or_an_image(folder: Path) -> None:
    add(folder)
    with pytest.raises(BadInput, match="the text is blank"):
        read_collection(folder)
