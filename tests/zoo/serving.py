"""A folder exported for the CPU, opened as a server does, and asked."""

import itertools
import tempfile
from contextlib import closing
from operator import itemgetter
from pathlib import Path

import numpy as np

from exporter.pipeline import ExportArgs, export
from runtime.embedder import Embedder
from runtime.opening import open_model
from runtime.ranker import Ranker
from runtime.requests import EmbedRequest, RankRequest
from tests.zoo.answers import Answers, row
from tests.zoo.texts import PASSAGES, QUERY, TEXTS


def serve(directory: Path, args: ExportArgs) -> Answers:
    """The answers of the artifact, texts of one kind in one request.

    Raises ExportError and ServingError.
    """
    with tempfile.TemporaryDirectory() as out:
        artifact = Path(out) / "artifact"
        typed = "token_type_ids" in export(str(directory), artifact, args).inputs
        with closing(open_model(artifact, engine="onnxruntime-cpu")) as model:
            if isinstance(model, Ranker):
                encodings = model.encoder.encode(RankRequest(QUERY, PASSAGES, truncate="END")).rows
                numbers = model.rank(RankRequest(QUERY, PASSAGES, truncate="END")).logits
            else:
                assert isinstance(model, Embedder)
                encodings, vectors = [], []
                for kind, together in itertools.groupby(TEXTS, key=itemgetter(1)):
                    texts = [text for text, _ in together]
                    asked = EmbedRequest(texts, kind, truncate="END")
                    encodings += model.encoder.encode(asked).rows
                    vectors.append(model.embed(asked).vectors)
                numbers = np.concatenate(vectors)
    rows = [row(one.token_ids, one.type_ids if typed else None) for one in encodings]
    return Answers(rows, numbers.astype(np.float64))
