"""Alerts and dashboard use metrics and labels that the server has."""

import base64
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from server.metrics import GPU_METRICS
from tests.server.in_process import in_process
from tests.tiny_vision import png

DEPLOY = Path(__file__).resolve().parent.parent.parent / "deploy"
# Added by Prometheus itself.
OUTER = {"up": {"job"}}
OUTER_LABELS = {"job", "instance", "namespace", "pod"}
_SELECTOR = re.compile(r"(?<![\w$.])([a-z]\w+)(?:\{([^}]*)\})?(?=[\s\[)/>=]|$)")
_WORDS = {"sum", "by", "rate", "increase", "max", "le", "or", "histogram_quantile", "absent"}


def alerts() -> Iterator[str]:
    rules = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yaml").read_text("utf-8"))
    for group in rules["groups"]:
        yield from (rule["expr"] for rule in group["rules"])


def adapted() -> Iterator[str]:
    """The autoscaler's queries, with the adapter's placeholders filled in."""
    for rule in yaml.safe_load((DEPLOY / "prometheus" / "adapter.yaml").read_text("utf-8"))[
        "rules"
    ]:
        series = rule["seriesQuery"].partition("{")[0]
        yield (
            rule["metricsQuery"]
            .replace("<<.Series>>", series)
            .replace("<<.LabelMatchers>>", 'namespace="n"')
            .replace("<<.GroupBy>>", "pod")
        )


def panels() -> Iterator[str]:
    board = json.loads((DEPLOY / "grafana" / "dashboard.json").read_text("utf-8"))
    for panel in board["panels"]:
        yield from (target["expr"] for target in panel["targets"])


@pytest.fixture(scope="module")
def page(vision_artifact: Path) -> Iterator[list[Metric]]:
    """The metrics of a server that has answered a request with an image."""
    passages = [{"text": "p", "image": base64.b64encode(png(90, 90)).decode()}]
    with in_process({"RERANK_MODEL_DIR": str(vision_artifact)}) as server:
        server.rank({"query": {"text": "q"}, "passages": passages}).raise_for_status()
        yield list(text_string_to_metric_families(server.get("/v1/metrics").text))


@pytest.fixture(scope="module")
def known(page: list[Metric]) -> dict[str, set[str]]:
    """Every metric of the page, with its labels."""
    found: dict[str, set[str]] = {name: set(labels) for name, labels in OUTER.items()}
    for family in page:
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    # This machine may have no GPU.
    found |= {nim: {"device_id"} for nim, _, _ in GPU_METRICS}
    found |= {triton: {"gpu_uuid"} for _, triton, _ in GPU_METRICS}
    return found


def selectors(expression: str) -> Iterator[tuple[str, str]]:
    """Metrics, and the text of their matchers."""
    bare = re.sub(r"\bby \([^)]*\)", "", expression)
    for name, matchers in _SELECTOR.findall(bare):
        if name not in _WORDS and not name.startswith("__"):
            yield name, matchers


def asked(expression: str) -> Iterator[tuple[str, set[str]]]:
    for name, matchers in selectors(expression):
        yield name, set(re.findall(r"(\w+)\s*[=!]", matchers))


def matches(matchers: str, labels: Mapping[str, str]) -> bool:
    """Matches labels of the page as Prometheus does."""
    test = {
        "=": str.__eq__,
        "!=": str.__ne__,
        "=~": lambda value, pattern: bool(re.fullmatch(pattern, value)),
        "!~": lambda value, pattern: not re.fullmatch(pattern, value),
    }
    parts = re.findall(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"', matchers)
    return all(test[sign](labels.get(label, ""), wanted) for label, sign, wanted in parts)


@pytest.mark.parametrize("source", [alerts, panels, adapted])
def test_every_metric_and_label_exists(known: dict[str, set[str]], source: Any) -> None:
    expressions = list(source())
    assert expressions
    for expression in expressions:
        selected = list(asked(expression))
        assert selected, expression
        for name, labels in selected:
            assert name in known, expression
            assert labels <= known[name] | OUTER_LABELS, expression
        grouped = {
            label
            for labels in re.findall(r"\bby \(([^)]*)\)", expression)
            for label in re.split(r",\s*", labels)
        }
        assert grouped <= set.union(*(known[name] for name, _ in selected)) | OUTER_LABELS


def test_every_series_of_an_alert_is_there_before_its_first_event(page: list[Metric]) -> None:
    """A counter that starts at 1 has no rate, so its first event would be missed."""
    samples = [sample for family in page for sample in family.samples]
    for expression in alerts():
        for name, matchers in selectors(expression):
            if name not in OUTER:
                assert any(s.name == name and matches(matchers, s.labels) for s in samples), name


def test_the_alerts_know_the_job_that_the_operator_makes_of_our_services() -> None:
    manifests = DEPLOY / "kubernetes"
    monitor = yaml.safe_load((manifests / "monitor" / "servicemonitor.yaml").read_text("utf-8"))
    service = yaml.safe_load((manifests / "base" / "service.yaml").read_text("utf-8"))
    label = monitor["spec"]["jobLabel"]
    job = service["metadata"]["labels"][label]
    assert monitor["spec"]["selector"]["matchLabels"] == {label: job}
    chart = (DEPLOY / "helm" / "open-rerank" / "templates" / "servers.yaml").read_text("utf-8")
    assert f"jobLabel: {label}\n" in chart
    assert f"{label}: {job}\n" in chart
    ups = [m for e in alerts() for name, m in selectors(e) if name == "up"]
    assert [matches(matchers, {"job": job}) for matchers in ups] == [True]
    tested = (DEPLOY / "prometheus" / "alerts_test.yaml").read_text("utf-8")
    assert f'up{{job="{job}", instance="a"}}' in tested


def test_every_metric_of_ours_is_on_the_dashboard_or_in_an_alert(
    known: dict[str, set[str]],
) -> None:
    used = {name for source in (alerts, panels) for e in source() for name, _ in asked(e)}
    ours = {re.sub(r"_(count|sum|bucket)$", "", name) for name in known if "rerank_" in name}
    assert ours <= {re.sub(r"_bucket$", "", name) for name in used}
