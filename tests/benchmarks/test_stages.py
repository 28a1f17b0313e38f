"""make profile: the stages of real requests, from a real server, add up to the client's latency."""

from pathlib import Path

import pytest

from benchmarks import stages
from benchmarks.stages import WEB, Load, markdown, measure
from checks.serving import served
from runtime.manifest import read_manifest


@pytest.mark.heavy
def test_stages_of_real_requests(
    rank_artifact: Path, embed_artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "_WARM_S", 0.0)
    with served(rank=rank_artifact, embed=embed_artifact) as address:
        for artifact in (rank_artifact, embed_artifact):
            manifest = read_manifest(artifact)
            loads = [Load(1, 8), Load(4, 1)]
            for load in loads:
                measure(load, address, manifest, 0.0)
                # Without measuring time, each client sends one request.
                assert load.requests == load.clients
                assert set(WEB) < set(load.stages_ms)
                assert load.stages_ms["engine"] > 0
                assert 0 < load.web_ms < load.total_ms
            assert loads[0].calls > 1  # eight lengths do not fit into one call
            table = markdown(manifest, loads)
            assert "| engine | " in table
            assert "4 clients, 1 text a request: 4 requests in " in table
