"""Manifests, chart and compose files: what they say is what the server reads and answers.

`make check-deploy` builds them with kubectl and asks promtool; here they are read as they lie.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from server.settings import read_settings
from server.variables import VARIABLES

DEPLOY = Path(__file__).resolve().parent.parent.parent / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
CHART = DEPLOY / "helm" / "open-rerank"
# Seconds: what a pod does before SIGTERM, and what closing a model may take after the drain.
PRE_STOP_S, CLOSING_S = 5, 10


class ComposeLoader(yaml.SafeLoader):
    """Knows compose's own tags: !override replaces, !reset drops what the first file says."""


ComposeLoader.add_constructor("!override", lambda loader, node: loader.construct_sequence(node))
ComposeLoader.add_constructor("!reset", lambda *_: None)


def known(name: str) -> bool:
    return any(row.matches(name) and row.fate == "honoured" for row in VARIABLES)


def base(kind: str) -> Any:
    found = [yaml.safe_load(p.read_text()) for p in (KUBERNETES / "base").glob("*.yaml")]
    (one,) = [document for document in found if document["kind"] == kind]
    return one


def containers(deployment: Any) -> Iterator[Any]:
    yield from deployment["spec"]["template"]["spec"]["containers"]


def test_every_resource_is_listed() -> None:
    for folder in KUBERNETES.iterdir():
        listed = yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"]
        files = {p.name for p in folder.glob("*.yaml")} - {"kustomization.yaml"}
        assert {name for name in listed if name.endswith(".yaml")} == files
        assert all((folder / name).exists() for name in listed)


def test_the_pod_speaks_of_ports_paths_and_variables_that_exist() -> None:
    pod = base("Deployment")["spec"]["template"]["spec"]
    (server,) = containers(base("Deployment"))
    settings = read_settings(
        {"ENABLE_MOCK_INFERENCE": "1", **{e["name"]: e["value"] for e in server["env"]}}
    )
    assert all(known(entry["name"]) for entry in server["env"])
    ports = {port["name"]: port["containerPort"] for port in server["ports"]}
    assert ports == {
        "http": settings.port,
        "grpc": settings.grpc_port,
        "metrics": settings.metrics_port,
    }
    for probe, path in (
        ("startupProbe", "/v1/health/ready"),
        ("readinessProbe", "/v1/health/ready"),
        ("livenessProbe", "/v1/health/live"),
    ):
        assert server[probe]["httpGet"] == {"path": path, "port": "http"}
    needed_s = PRE_STOP_S + settings.drain_timeout_s + CLOSING_S
    assert pod["terminationGracePeriodSeconds"] > needed_s
    assert server["lifecycle"]["preStop"]["exec"]["command"] == ["sleep", str(PRE_STOP_S)]
    assert server["securityContext"]["readOnlyRootFilesystem"]
    assert pod["securityContext"]["runAsNonRoot"]


def test_the_autoscaler_asks_for_what_the_adapter_gives() -> None:
    scaler = base("HorizontalPodAutoscaler")["spec"]
    asked = {metric["pods"]["metric"]["name"] for metric in scaler["metrics"]}
    adapter = yaml.safe_load((DEPLOY / "prometheus" / "adapter.yaml").read_text())
    assert asked == {rule["name"]["as"] for rule in adapter["rules"]}
    assert scaler["scaleTargetRef"]["name"] == base("Deployment")["metadata"]["name"]
    assert scaler["minReplicas"] >= 2  # one may be drained


def test_the_monitor_scrapes_a_port_of_the_service() -> None:
    ports = {port["name"] for port in base("Service")["spec"]["ports"]}
    (endpoint,) = base("ServiceMonitor")["spec"]["endpoints"]
    assert endpoint["port"] in ports
    assert endpoint["path"] == "/v1/metrics"


@pytest.mark.parametrize("model", ["rerankqa", "embedqa"])
def test_the_charts_values_are_nv_ingests(model: str) -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())["nimOperator"][model]
    # nv-ingest 26.3, helm/values.yaml, nimOperator.
    assert set(values) == {
        *("enabled", "image", "authSecret", "storage", "replicas", "nodeSelector"),
        *("tolerations", "resources", "expose", "env"),
    }
    assert set(values["image"]) == {"repository", "tag", "pullPolicy", "pullSecrets"}
    assert set(values["storage"]["pvc"]) >= {"create", "storageClass", "size", "volumeAccessMode"}
    assert values["expose"]["service"] == {"type": "ClusterIP", "port": 8000, "grpcPort": 8001}
    assert all(known(entry["name"]) for entry in values["env"])


def test_the_chart_uses_values_that_exist_and_nothing_else() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    text = (CHART / "templates" / "servers.yaml").read_text()
    for path in re.findall(r"\$model\.([\w.]+)", text):
        found: Any = values["nimOperator"]["rerankqa"]
        for step in path.split("."):
            assert step in found, path
            found = found[step]
    assert set(re.findall(r"\$\.Values\.(\w+)", text)) == set(values)
    assert text.count("{{- end }}") == len(re.findall(r"\{\{-? (?:range|if|with) ", text))
    for said in ("readinessProbe", "livenessProbe", "startupProbe", "preStop", "readOnlyRoot"):
        assert said in text


@pytest.mark.parametrize(
    ("file", "ports"),
    [
        (
            "nv-ingest",
            {"reranker": (8015, 8016, 8017), "embedding": (8012, 8013, 8014)},
        ),
        ("rag-blueprint", {"nemotron-ranking-ms": (1976,), "nemotron-embedding-ms": (9080,)}),
    ],
)
def test_compose_files_replace_image_ports_and_environment(
    file: str, ports: dict[str, tuple[int, ...]]
) -> None:
    text = (DEPLOY / "compose" / f"{file}.yaml").read_text()
    services = yaml.load(text, ComposeLoader)["services"]
    assert set(services) == set(ports)
    for name, service in services.items():
        shown = [re.sub(r"\$\{\w+:-(\d+)\}", r"\1", port) for port in service["ports"]]
        wanted = [f"{p}:{inside}" for p, inside in zip(ports[name], (8000, 8001, 8002))]  # noqa: B905
        assert shown == wanted
        assert re.fullmatch(r"\$\{\w+_IMAGE:-open-rerank\}:\$\{\w+_TAG:-cpu\}", service["image"])
        assert service["deploy"] is None
        assert all(known(variable) for variable in service["environment"])
        assert service["volumes"][0].endswith(":/opt/model:ro")
