"""Manifests, chart and compose files agree with what the server reads and answers.

`make check-deploy` builds them with kubectl and asks promtool; here they are read as they lie.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from server.settings import Settings, read_settings
from server.variables import VARIABLES

DEPLOY = Path(__file__).resolve().parent.parent.parent / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
CHART = DEPLOY / "helm" / "open-rerank"
# Seconds: the wait before SIGTERM, and the time to close a model after the drain.
PRE_STOP_S, CLOSING_S = 5, 10
# Seconds to build a plan, as in Dockerfile.gpu's health check.
PLAN_S = 1800

BOUNDS = ("requests", "limits")
IMAGE_LIMITS = {
    "NIM_MAX_IMAGE_BYTES",
    "RERANK_IMAGE_MAX_PIXELS",
    "RERANK_IMAGE_MAX_TILES",
    "RERANK_IMAGE_CACHE_BYTES",
    "NIM_HTTP_BODY_LIMIT_BYTES",
}
# Candidates of one request of the RAG blueprint; tiles of a page of the published models, and more
# than its PNG in base64 has on average.
PAGES, PAGE_TILES, PAGE_BYTES = 100, 7, 2 << 20

# One model of nimOperator in nv-ingest's helm/values.yaml, release 26.3.
NV_INGEST: dict[str, Any] = {
    "enabled": False,
    "image": {
        "repository": "nvcr.io/nim/nvidia/llama-nemotron-rerank-1b-v2",
        "tag": "1.10.0",
        "pullPolicy": "IfNotPresent",
        "pullSecrets": ["ngc-secret"],
    },
    "authSecret": "ngc-api",
    "storage": {"pvc": {"create": True, "size": "50Gi", "volumeAccessMode": "ReadWriteOnce"}},
    "replicas": 1,
    "resources": {"limits": {"nvidia.com/gpu": 1}},
    "expose": {"service": {"type": "ClusterIP", "port": 8000, "grpcPort": 8001}},
    "env": [{"name": "NIM_HTTP_API_PORT", "value": "8000"}],
}


class ComposeLoader(yaml.SafeLoader):
    """Knows compose's own tags: !override replaces, !reset drops the first file's value."""


ComposeLoader.add_constructor("!override", lambda loader, node: loader.construct_sequence(node))
ComposeLoader.add_constructor("!reset", lambda *_: None)


def known(name: str) -> bool:
    return any(row.matches(name) and row.fate == "honoured" for row in VARIABLES)


def manifest(kind: str) -> Any:
    found = [yaml.safe_load(p.read_text("utf-8")) for p in KUBERNETES.glob("*/*.yaml")]
    (one,) = [document for document in found if document["kind"] == kind]
    return one


def containers(deployment: Any) -> Iterator[Any]:
    yield from deployment["spec"]["template"]["spec"]["containers"]


def patched(overlay: str) -> dict[str, list[Any]]:
    """Path → values that the overlay's patches set there."""
    found: dict[str, list[Any]] = {}
    for patch in yaml.safe_load((KUBERNETES / overlay / "kustomization.yaml").read_text("utf-8"))[
        "patches"
    ]:
        for step in yaml.safe_load(patch["patch"]):
            found.setdefault(step["path"], []).append(step.get("value"))
    return found


def test_every_resource_is_listed() -> None:
    for folder in KUBERNETES.iterdir():
        kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text("utf-8"))
        listed = kustomization["resources"]
        assert all((folder / name).is_dir() for name in kustomization.get("components", []))
        files = {p.name for p in folder.glob("*.yaml")} - {"kustomization.yaml"}
        assert {name for name in listed if name.endswith(".yaml")} == files
        assert all((folder / name).exists() for name in listed)


def test_the_pod_speaks_of_ports_paths_and_variables_that_exist() -> None:
    pod = manifest("Deployment")["spec"]["template"]["spec"]
    (server,) = containers(manifest("Deployment"))
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

    assert not pod["enableServiceLinks"]  # a Service's variables may have our names
    resources = server["resources"]
    assert resources["limits"]["cpu"] == resources["requests"]["cpu"]  # one thread per core


def test_a_cluster_without_operators_takes_the_base() -> None:
    listed = yaml.safe_load((KUBERNETES / "base" / "kustomization.yaml").read_text("utf-8"))[
        "resources"
    ]
    kinds = {
        yaml.safe_load((KUBERNETES / "base" / name).read_text("utf-8"))["kind"] for name in listed
    }
    assert kinds == {"Deployment", "Service", "PodDisruptionBudget"}
    assert manifest("Deployment")["spec"]["replicas"] == 2
    assert patched("autoscaler") == {"/spec/replicas": [None]}  # removed: the autoscaler decides


def test_replicas_on_gpus_have_a_model_a_cache_and_time_to_build_a_plan(tmp_path: Path) -> None:
    steps, container = patched("gpu"), "/spec/template/spec/containers/0"
    mounts = {mount["name"]: mount for mount in steps[f"{container}/volumeMounts/-"]}
    volumes = {volume["name"]: volume for volume in steps["/spec/template/spec/volumes/-"]}
    env = {entry["name"]: entry["value"] for entry in steps[f"{container}/env/-"]}
    read_settings({**env, "RERANK_MODEL_DIR": str(tmp_path), "NIM_CACHE_PATH": str(tmp_path)})
    assert set(mounts) == set(volumes) == {"model", "cache"}
    assert mounts["model"]["mountPath"] == "/opt/model"  # as the images' RERANK_MODEL_DIR
    assert volumes["model"]["persistentVolumeClaim"]["readOnly"]
    assert env == {
        "NIM_MODEL_PROFILE": "auto",
        "NIM_CACHE_PATH": mounts["cache"]["mountPath"],
    }
    assert steps["/spec/strategy/rollingUpdate"] == [{"maxSurge": 0, "maxUnavailable": 1}]
    (server,) = containers(manifest("Deployment"))
    (failures,) = steps[f"{container}/startupProbe/failureThreshold"]
    assert failures * server["startupProbe"]["periodSeconds"] == PLAN_S


def test_a_model_that_takes_images_has_memory_for_what_its_limits_allow(tmp_path: Path) -> None:
    steps, container = patched("images"), "/spec/template/spec/containers/0"
    env = {entry["name"]: entry["value"] for entry in limits_of(steps)}
    settings = read_settings({**env, "RERANK_MODEL_DIR": str(tmp_path)})
    assert settings.image_tiles >= PAGES * PAGE_TILES
    assert settings.body_limit_bytes >= PAGES * PAGE_BYTES
    least, most = (bytes_of(steps[f"{container}/resources/{bound}/memory"][0]) for bound in BOUNDS)
    assert least >= needed_bytes(settings) > least - (1 << 30)
    assert most == 2 * least  # a model that is loaded beside the served one
    vision = patched("vision")
    (mount,) = vision[f"{container}/volumeMounts/-"]
    (volume,) = vision["/spec/template/spec/volumes/-"]
    assert mount["mountPath"] == "/opt/model"
    assert volume["name"] == mount["name"]
    assert volume["persistentVolumeClaim"]["readOnly"]


def limits_of(component: dict[str, list[Any]]) -> list[Any]:
    """The variables of images that the component sets."""
    found = component["/spec/template/spec/containers/0/env/-"]
    assert {entry["name"] for entry in found} == IMAGE_LIMITS
    return found


def bytes_of(quantity: str) -> int:
    """Of a quantity in Gi."""
    return int(quantity.removesuffix("Gi")) << 30


def needed_bytes(settings: Settings) -> int:
    """The most memory of the 1.7B model in float32 at these limits, as docs/operations.md adds it
    up: weights; tiles of all requests, as pixels and as embeddings; cache; images that are decoded;
    bodies; the text model's calls and the interpreter."""
    tile = 512 * 512 * 3 + 256 * 2048 * 4
    return sum(
        (
            1_663_018_224 * 4,
            2 * settings.image_tiles * tile,
            settings.image_cache_bytes,
            4 * 10 * settings.image_pixels,
            8 * settings.body_limit_bytes,
            1 << 30,
        )
    )


def test_the_autoscaler_asks_for_what_the_adapter_gives() -> None:
    scaler = manifest("HorizontalPodAutoscaler")["spec"]
    asked = {metric["pods"]["metric"]["name"] for metric in scaler["metrics"]}
    adapter = yaml.safe_load((DEPLOY / "prometheus" / "adapter.yaml").read_text("utf-8"))
    assert asked == {rule["name"]["as"] for rule in adapter["rules"]}
    assert scaler["scaleTargetRef"]["name"] == manifest("Deployment")["metadata"]["name"]
    assert scaler["minReplicas"] >= 2  # one may be drained


def test_the_monitor_scrapes_a_port_of_the_service() -> None:
    ports = {port["name"] for port in manifest("Service")["spec"]["ports"]}
    (endpoint,) = manifest("ServiceMonitor")["spec"]["endpoints"]
    assert endpoint["port"] in ports
    assert endpoint["path"] == "/v1/metrics"


def test_every_compose_file_is_in_the_readme() -> None:
    text = (DEPLOY / "README.md").read_text("utf-8")
    for file in (DEPLOY / "compose").iterdir():
        assert f"`compose/{file.name}`" in text


def merged(under: Any, over: Any) -> Any:
    """Merge values files as helm does."""
    if not isinstance(under, dict) or not isinstance(over, dict):
        return over
    return {**under, **{key: merged(under.get(key), value) for key, value in over.items()}}


@pytest.mark.parametrize("model", ["rerankqa", "embedqa", "vlm_embed"])
def test_the_charts_values_are_nv_ingests(model: str) -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text("utf-8"))["nimOperator"][model]
    assert set(values) - set(NV_INGEST) == {"name", "nodeSelector", "tolerations"}
    assert not set(NV_INGEST) - set(values)
    assert set(values["image"]) == set(NV_INGEST["image"])
    assert set(values["storage"]["pvc"]) == {"create", "name"}
    assert values["expose"] == NV_INGEST["expose"]
    assert all(known(entry["name"]) for entry in values["env"])
    assert values["resources"]["limits"]["cpu"] == values["resources"]["requests"]["cpu"]


@pytest.mark.parametrize("model", ["rerankqa", "embedqa"])
def test_nv_ingests_values_are_refused_until_what_differs_is_replaced(model: str) -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text("utf-8"))["nimOperator"][model]
    differs = yaml.safe_load((CHART.parent / "nv-ingest.yaml").read_text("utf-8"))["nimOperator"][
        model
    ]
    theirs = merged(values, NV_INGEST)
    both = merged(theirs, differs)
    assert both["storage"]["pvc"].items() >= {"create": False, "name": ""}.items()
    assert both["image"]["repository"] == values["image"]["repository"]
    assert both["enabled"] == values["enabled"]
    assert both["resources"] == merged(values["resources"], {"limits": {"nvidia.com/gpu": 0}})
    text = (CHART / "templates" / "servers.yaml").read_text("utf-8")
    assert '{{- if hasPrefix "nvcr.io/" $model.image.repository }}\n{{- fail ' in text
    assert "{{- if $model.storage.pvc.create }}\n{{- fail " in text
    assert "PersistentVolumeClaim" not in text


@pytest.mark.parametrize("model", ["rerankqa", "vlm_embed"])
def test_the_chart_gives_models_that_take_images_their_names_memory_and_limits(model: str) -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text("utf-8"))["nimOperator"][model]
    differs = yaml.safe_load((CHART.parent / "nemo-retriever.yaml").read_text("utf-8"))
    both = merged(merged(values, NV_INGEST), differs["nimOperator"][model])
    assert re.fullmatch("llama-nemotron-(rerank|embed)-vl-1b-v2", both["name"])
    assert both["image"]["repository"] == "open-rerank"
    assert not both["storage"]["pvc"]["create"]
    assert both["storage"]["pvc"]["name"]
    component = patched("images")
    for bound in BOUNDS:
        path = f"/spec/template/spec/containers/0/resources/{bound}/memory"
        assert [both["resources"][bound]["memory"]] == component[path]
    env = {entry["name"]: entry["value"] for entry in both["env"]}
    assert {entry["name"]: entry["value"] for entry in limits_of(component)}.items() <= env.items()


def test_the_chart_uses_values_that_exist_and_nothing_else() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text("utf-8"))
    text = (CHART / "templates" / "servers.yaml").read_text("utf-8")
    for path in re.findall(r"\$model\.([\w.]+)", text):
        found: Any = values["nimOperator"]["rerankqa"]
        for step in path.split("."):
            assert step in found, path
            found = found[step]
    assert set(re.findall(r"\$\.Values\.(\w+)", text)) == set(values)
    assert text.count("{{- end }}") == len(re.findall(r"\{\{-? (?:range|if|with) ", text))
    for field in ("readinessProbe", "livenessProbe", "startupProbe", "preStop", "readOnlyRoot"):
        assert field in text
    assert "enableServiceLinks: false" in text
    assert text.count("port: http, scheme: {{ $scheme }}}") == text.count("httpGet:") == 3
    named = re.findall(r'"name" "(\w+)"', text)
    assert named == ["NIM_TLS_CERT_PATH", "NIM_TLS_KEY_PATH"]
    assert all(known(name) for name in named)
    for path in re.findall(r"\$\.Values\.(\w+\.\w+)", text):
        top, key = path.split(".")
        assert key in values[top], path
    monitor = text.partition("{{- with $.Values.serviceMonitor }}")[2]
    assert set(re.findall(r"(?:if|with|toYaml) \.(\w+)", monitor)) == set(values["serviceMonitor"])


@pytest.mark.parametrize(
    ("file", "ports"),
    [
        ("nv-ingest-reranker", {"reranker": (8015, 8016, 8017)}),
        ("nv-ingest-embedding", {"embedding": (8012, 8013, 8014)}),
        ("nv-ingest-vl-reranker", {"reranker": (8015, 8016, 8017)}),
        ("nv-ingest-vl-embedding", {"embedding": (8012, 8013, 8014)}),
        ("rag-blueprint-reranker", {"nemotron-ranking-ms": (1976,)}),
        ("rag-blueprint-embedding", {"nemotron-embedding-ms": (9080,)}),
        ("rag-blueprint-vl-reranker", {"nemotron-ranking-vl-ms": (1979,)}),
        ("rag-blueprint-vl-embedding", {"nemotron-vlm-embedding-ms": (9081,)}),
    ],
)
def test_compose_files_replace_image_ports_and_environment(
    file: str, ports: dict[str, tuple[int, ...]]
) -> None:
    text = (DEPLOY / "compose" / f"{file}.yaml").read_text("utf-8")
    services = yaml.load(text, ComposeLoader)["services"]
    assert set(services) == set(ports)
    for name, service in services.items():
        published = [re.sub(r"\$\{\w+:-(\d+)\}", r"\1", port) for port in service["ports"]]
        wanted = [f"{p}:{inside}" for p, inside in zip(ports[name], (8000, 8001, 8002))]  # noqa: B905
        assert published == wanted
        assert re.fullmatch(r"\$\{\w+_IMAGE:-open-rerank\}:\$\{\w+_TAG:-cpu\}", service["image"])
        assert service["deploy"] is None
        assert all(known(variable) for variable in service["environment"])
        if "-vl-" in file:
            wanted_env = {entry["name"]: entry["value"] for entry in limits_of(patched("images"))}
            assert wanted_env.items() <= service["environment"].items()
            assert service["mem_limit"] == "36g"
        else:
            assert not IMAGE_LIMITS & set(service["environment"])
        assert service["volumes"][0].endswith(":/opt/model:ro")
        # Compose reads the whole file: variables of one service must not be required by others.
        assert len(re.findall(r"\$\{\w+:\?", text)) == 1
        assert f"-f {file}.yaml" in text
        if probe := service.get("healthcheck"):
            # In the container's shell; $$ is compose's escape for $.
            assert probe["test"] == [
                "CMD-SHELL",
                "curl -fk http$${NIM_TLS_CERT_PATH:+s}://localhost:8000/v1/health/ready",
            ]
