"""What is told of images: metrics, log lines, traces."""

import itertools
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from runtime.postprocess import Ranking, Timing
from server import reloading
from server.tracing import Tracing
from tests.server.figures import figures
from tests.server.in_process import InProcess, Serve
from tests.server.surfaces.images import bare
from tests.tiny_vision import png
from tests.waiting import retiring

_OWN = ("rerank_image_tiles_total", "rerank_image_cache_hits_total")
_OWN += ("rerank_image_cache_misses_total",)


def rank(server: InProcess, *passages: dict[str, str]) -> Any:
    return server.rank({"query": {"text": "q"}, "passages": list(passages)})


def counted(server: InProcess) -> list[float]:
    found = figures(server)
    stage = 'rerank_stage_seconds_count{kind="rank",stage="image"}'
    return [*(found[f'{name}{{kind="rank"}}'] for name in _OWN), found.get(stage, 0)]


def test_tiles_and_the_cache_are_counted(serve: Serve, vision_artifact: Path) -> None:
    server = serve({"RERANK_MODEL_DIR": str(vision_artifact)})
    warm = counted(server)
    one, five = {"image": bare(png(92, 92))}, {"image": bare(png(155, 155))}
    for passages in ([one, five, {"text": "a"}], [one], [{"text": "a"}]):
        assert rank(server, *passages).status_code == 200
    added = [after - before for before, after in zip(warm, counted(server), strict=True)]
    assert added == [6, 1, 2, 2]
    assert figures(server)['rerank_image_cache_bytes{kind="rank"}'] > 0


def test_without_a_cache_an_image_is_computed_again(serve: Serve, vision_artifact: Path) -> None:
    settings = {"RERANK_MODEL_DIR": str(vision_artifact), "RERANK_IMAGE_CACHE_BYTES": "0"}
    server = serve(settings)
    warm = counted(server)
    for _ in range(2):
        assert rank(server, {"image": bare(png(92, 92))}).status_code == 200
    assert [a - b for a, b in zip(counted(server), warm, strict=True)] == [2, 0, 2, 2]
    assert figures(server)['rerank_image_cache_bytes{kind="rank"}'] == 0


def test_a_reload_sets_no_counter_back(
    serve: Serve, vision_artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reloading, "_RETIRE_DELAY_S", 0.1)
    server = serve({"RERANK_MODEL_DIR": str(vision_artifact), "RERANK_MODEL_CONTROL": "true"})
    (model,) = server.http.post("/v2/repository/index").json()
    found = [counted(server)]
    for _ in range(2):
        assert rank(server, {"image": bare(png(92, 92))}).status_code == 200
        found.append(counted(server))
        name = model["name"]
        assert server.http.post(f"/v2/repository/models/{name}/load").status_code == 200
        while retiring():
            found.append(counted(server))
        found.append(counted(server))
    for before, after in itertools.pairwise(found):
        assert all(a <= b for a, b in zip(before, after, strict=True)), (before, after)


def test_a_model_of_texts_has_no_such_metrics(mock_in_process: InProcess) -> None:
    assert not [name for name in figures(mock_in_process) if name.startswith("rerank_image")]


def test_the_log_tells_how_long_images_took(
    vision_server: InProcess, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "server.observability"):
        rank(vision_server, {"image": bare(png(93, 93))})
        rank(vision_server, {"text": "a"})
    with_image, without = [
        one.getMessage() for one in caplog.records if "rows=1" in one.msg % one.args
    ]  # type: ignore[operator]
    assert " image_ms=" in with_image
    assert "image_ms" not in without


def test_images_are_a_stage_before_the_tokens() -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    timing = Timing(20.0, 30.0, 40.0, 190.0, image_ms=100.0, began=1.0)
    none = np.zeros(0, np.int64)
    answer = Ranking(np.zeros(0, np.float32), none, none, 0, timing)
    trace = Tracing(provider, exporter).begin("HTTP", {}, {})
    trace.end("POST", {}, [answer], failed=False)
    *stages, _ = exporter.get_finished_spans()
    assert [span.name for span in stages] == ["image", "tokenize", "queue"]
    lengths = [(span.end_time or 0) - (span.start_time or 0) for span in stages]
    assert lengths == pytest.approx([100e6, 20e6, 30e6], rel=1e-3)
    for one, two in itertools.pairwise(stages):
        assert two.start_time == pytest.approx(one.end_time, abs=1000)
