"""The trained ranker that the repository carries, from which coarser artifacts are made."""

from pathlib import Path

import pytest

from exporter.pipeline import Wish
from tests.conftest import Exported

EMBEDDED = Path(__file__).parents[3] / "embedded"


@pytest.fixture(scope="session")
def trained_artifact(exported: Exported) -> Path:
    """The trained ranker for cpu-fp32."""
    return exported(EMBEDDED / "rank", Wish(profile="tiny-rerank-v1", max_tokens=512))
