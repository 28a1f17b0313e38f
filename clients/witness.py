"""The runtime's own answers about the pages that clients send: each page alone, without a server.

Runs in our environment and leaves them in a file, as no client's environment has the runtime.
"""

import base64
import json
from contextlib import closing
from io import BytesIO
from pathlib import Path

from PIL import Image

from clients.pages import QUERY, WITNESSED
from runtime.opening import open_embedder, open_ranker
from runtime.requests import EmbedRequest, Passage, RankRequest

# More than the 32 passages and fewer than the 50 texts of langchain's requests.
_PAGES = 36
# Of one, three and five tiles.
_SIZES = ((90, 90), (200, 100), (150, 150))


def write_witness(ranker: Path, embedder: Path) -> None:
    """Make the pages and write them with the answers of the two artifacts."""
    passages = [_passage(number) for number in range(_PAGES)]
    with closing(open_ranker(ranker)) as rank, closing(open_embedder(embedder)) as embed:
        pages = [
            {
                "text": one.text,
                "image": base64.b64encode(one.image or b"").decode(),
                "logit": float(rank.rank(RankRequest(QUERY, [one])).logits[0]),
                "vector": embed.embed(EmbedRequest([one], "passage")).vectors[0].tolist(),
            }
            for one in passages
        ]
    WITNESSED.write_text(json.dumps(pages))


def _passage(number: int) -> Passage:
    """A text, an image, or both by turns."""
    kind, size = number % 3, _SIZES[number // 3 % len(_SIZES)]
    text = "" if kind == 1 else f"Sales by quarter, page {number}"
    return Passage(text, None if kind == 0 else _png(size, number))


def _png(size: tuple[int, int], number: int) -> bytes:
    """Bands of colours, other ones for each number."""
    shades = Image.linear_gradient("L"), Image.radial_gradient("L"), Image.linear_gradient("L")
    bands = [
        shade.resize(size).point([value * (number + place) % 256 for value in range(256)])
        for place, shade in enumerate(shades, start=1)
    ]
    file = BytesIO()
    Image.merge("RGB", bands).save(file, "PNG")
    return file.getvalue()
