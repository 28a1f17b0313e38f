"""Rows with images to calibrate on: what a tower gives differs from the embeddings of words."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from exporter.parity_images import calibration_passages
from runtime.engines import VISION_FILE, open_engine
from runtime.errors import TextPlace
from runtime.manifest import TOKENIZER_FILE, Manifest
from runtime.text import Encoding, load_tokenizer, unchecked
from runtime.vision.encoding import VisionPairEncoder, VisionTextEncoder
from runtime.vision.limits import VisionLimits


def image_rows(directory: Path, manifest: Manifest) -> Iterator[Encoding]:
    """Pages with and without a text beside them, through the float32 tower in `directory`."""
    from runtime.vision.tower import Tower  # late: needs Pillow

    vision = manifest.vision
    assert vision is not None
    tokenizer = load_tokenizer(directory / TOKENIZER_FILE)
    engine = open_engine("onnxruntime-cpu", directory, graph=VISION_FILE)
    with closing(Tower(engine, vision, VisionLimits())) as tower:
        for query, passage in calibration_passages(vision, manifest.max_tokens):
            with tower.embedded(
                [passage.image], [TextPlace("a calibration image")], None
            ) as images:
                if manifest.kind == "embed":
                    texts = VisionTextEncoder(
                        tokenizer, manifest.prefixes, manifest.max_tokens, vision
                    )
                    found = texts.encode([passage.text], "passage", "END", images=images)
                else:
                    assert manifest.template is not None
                    pairs = VisionPairEncoder(
                        tokenizer, manifest.template, manifest.max_tokens, vision
                    )
                    found = pairs.encode(query, [passage.text], "END", unchecked, images=images)
                yield from found.rows
