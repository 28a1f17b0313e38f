"""make profile: the stages of real requests, from a real server, add up to what clients see."""

from pathlib import Path

import pytest

from benchmarks import stages
from benchmarks.stages import WEB, Load, markdown, measure
from checks.serving import served
from runtime.manifest import read_manifest


@pytest.mark.parametrize("kind", ["rank", "embed"])
def test_stages_of_real_requests(
    kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "_WARM_S", 0.1)
    artifact: Path = request.getfixturevalue(f"{kind}_artifact")
    manifest = read_manifest(artifact)
    loads = [Load(1, 8), Load(4, 1)]
    with served(**{kind: artifact}) as address:
        for load in loads:
            measure(load, address, manifest, 0.5)
    for load in loads:
        assert load.requests > 0
        assert load.calls > 0
        assert set(WEB) < set(load.stages_ms)
        assert load.stages_ms["engine"] > 0
        assert 0 < load.web_ms < load.total_ms
    assert loads[0].calls > loads[0].requests  # eight lengths do not fit into one call
    table = markdown(manifest, loads)
    assert "| engine | " in table
    assert "4 clients, 1 text a request: " in table
