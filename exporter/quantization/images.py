"""Rows with images to calibrate on: what a tower gives differs from the embeddings of words."""

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

from exporter.parity_images import calibration_passages
from runtime.engines import open_engine
from runtime.manifest import TOKENIZER_FILE, Manifest
from runtime.requests import AnyRequest, EmbedRequest, RankRequest
from runtime.text import Encoding, load_tokenizer
from runtime.tokenizing import Encoder
from runtime.vision.encoding import pair_encoder, text_encoder
from runtime.vision.limits import VisionLimits


def image_rows(directory: Path, manifest: Manifest) -> Iterator[Encoding]:
    """Pages with and without a text beside them, through the float32 tower in `directory`."""
    from runtime.vision.tower import Tower  # late: needs Pillow

    vision = manifest.vision
    assert vision is not None
    tokenizer = load_tokenizer(directory / TOKENIZER_FILE)
    make: Callable[..., Encoder] = pair_encoder if manifest.kind == "rank" else text_encoder
    encoder = make(manifest, tokenizer, manifest.max_tokens)
    engine = open_engine("onnxruntime-cpu", directory, tower=True)
    with closing(Tower(engine, vision, VisionLimits())) as tower:
        for query, passage in calibration_passages(vision, manifest.max_tokens):
            request: AnyRequest = RankRequest(query, [passage], truncate="END")
            if manifest.kind == "embed":
                request = EmbedRequest([passage], "passage", truncate="END")
            with tower.embedded(request) as seen:
                yield from encoder.encode(seen).rows
