"""The comparison of check-minilm, with a tiny model instead of the real one."""

from pathlib import Path

import numpy as np
import pytest

from checks.minilm import Reference, compare
from checks.serving import served
from runtime.opening import open_embedder
from runtime.requests import EmbedRequest
from tests.conftest import Exported
from tests.tiny_checkpoints import write_sentence_transformers

TEXTS = ("deep learning", "a sheep", "the weather " * 300)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory, exported: Exported) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    return exported(write_sentence_transformers(folder / "symmetric"))


@pytest.fixture(scope="module")
def reference(artifact: Path) -> Reference:
    """The tiny model's own results for TEXTS."""
    embedder = open_embedder(artifact)
    try:
        found = embedder.embed(EmbedRequest(TEXTS, truncate="END"))
    finally:
        embedder.close()
    return Reference("", found.vectors.tolist(), found.token_counts.tolist())


@pytest.mark.heavy
def test_served_vectors_are_compared_with_the_reference(
    artifact: Path, reference: Reference
) -> None:
    wrong = np.asarray(reference.vectors)
    wrong[1, 3] += 1e-3
    miscounted = [reference.token_counts[0] + 1, *reference.token_counts[1:]]
    with served(embed=artifact) as address:
        same = compare(address, TEXTS, reference)
        other = compare(address, TEXTS, Reference("", wrong.tolist(), reference.token_counts))
        counted = compare(address, TEXTS, Reference("", reference.vectors, miscounted))
    assert same.passed
    assert same.max_abs_delta < 1e-6
    assert same.lowest_cosine == pytest.approx(1.0)
    assert not other.passed
    assert other.max_abs_delta == pytest.approx(1e-3, rel=1e-2)
    assert not counted.passed
