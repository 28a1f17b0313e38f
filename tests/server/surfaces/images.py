"""Pictures, and the forms in which callers send them."""

import base64
from io import BytesIO
from typing import Any

from PIL import Image

from tests.tiny_vision import encoded, png

# NVIDIA's names of the models of `vision_server`, in Triton's spelling.
VISION_RANK = "nvidia_llama_nemotron_rerank_vl_1b_v2"
VISION_EMBED = "nvidia_llama_nemotron_embed_vl_1b_v2"
# Of one, three and five tiles.
ONE, THREE, FIVE = png(90, 90), png(200, 100), png(150, 150)


def bare(file: bytes) -> str:
    """Base64 alone, as NeMo Retriever sends it."""
    return base64.b64encode(file).decode()


def data_url(file: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{bare(file)}"


def converted(file: bytes, kind: str, **options: Any) -> bytes:
    """The picture in another format."""
    with Image.open(BytesIO(file)) as image:
        return encoded(image, kind, **options)
