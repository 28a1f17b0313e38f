"""The trained ranker that the repository carries, from which artifacts are quantized."""

from pathlib import Path

import pytest

from exporter.pipeline import ExportArgs
from tests.conftest import Exported

EMBEDDED = Path(__file__).parents[3] / "embedded"


@pytest.fixture(scope="session")
def trained_artifact(exported: Exported) -> Path:
    """The trained ranker for cpu-fp32."""
    return exported(EMBEDDED / "rank", ExportArgs(profile="tiny-rerank-v1", max_tokens=512))
