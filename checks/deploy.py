"""`make check-deploy`: manifests, rules and the metrics page, read by the tools that use them.

kubectl builds the manifests, promtool checks and tests the rules and lints the page, a real
Prometheus scrapes a real server and evaluates the rules, and helm, if installed, renders the chart.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import yaml

from checks.here import need_tools
from checks.ports import free_port
from checks.serving import served
from tests.waiting import PATIENCE_S, wait_until

DEPLOY = Path(__file__).resolve().parent.parent / "deploy"
RULES = DEPLOY / "prometheus" / "alerts.yaml"
TOOLS = {"kubectl": "kubernetes-client", "promtool": "prometheus", "prometheus": "prometheus"}
# promtool's exit code for a page that is readable but has lint warnings.
_LINT_ONLY = 3
_BODY = {"query": {"text": "q"}, "passages": [{"text": "a"}, {"text": "b"}]}


def main() -> int:
    """0 when every step passed; the first failure raises."""
    need_tools(TOOLS)
    for overlay in ("base", "embedding", "gpu", "vision"):
        _manifests(overlay, _built(DEPLOY / "kubernetes" / overlay))
        _composed(overlay)
    for overlay in ("embedding", "gpu"):
        _composed(overlay, "../images")
    print(_run("promtool", "check", "rules", str(RULES)).strip())
    print(_run("promtool", "test", "rules", str(RULES.with_name("alerts_test.yaml"))).strip())
    _chart()
    with served() as url:
        httpx.post(f"{url}/v1/ranking", json=_BODY, timeout=PATIENCE_S).raise_for_status()
        _page(_got(f"{url}/v1/metrics").content)
        _scraped(url)
    return 0


def _built(folder: Path) -> list[Any]:
    return list(yaml.safe_load_all(_run("kubectl", "kustomize", str(folder))))


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def _manifests(overlay: str, built: list[Any]) -> None:
    """Every selector matches the pods of its own deployment, and no others."""
    kinds = {document["kind"]: document for document in built}
    assert set(kinds) == {"Deployment", "Service", "PodDisruptionBudget"}, kinds
    name = kinds["Deployment"]["metadata"]["name"]
    assert {document["metadata"]["name"] for document in built} == {name}
    pod = kinds["Deployment"]["spec"]["template"]
    labels = pod["metadata"]["labels"]
    assert kinds["Service"]["spec"]["selector"] == labels
    for kind in ("Deployment", "PodDisruptionBudget"):
        assert kinds[kind]["spec"]["selector"]["matchLabels"] == labels, kind
    (server,) = pod["spec"]["containers"]
    volumes = {volume["name"] for volume in pod["spec"]["volumes"]}
    mounts = {mount["name"]: mount["mountPath"] for mount in server["volumeMounts"]}
    assert set(mounts) == volumes
    # Only the CPU image of `make build` contains a model.
    assert mounts.get("model") == (None if overlay == "base" else "/opt/model"), mounts
    image = server["image"]
    print(f"kubectl kustomize {overlay}: {len(built)} resources, {name}, image {image}")


def _composed(overlay: str, *more: str) -> None:
    """As in a cluster's own kustomization: an image to pull, both components for everybody, and
    `more`."""
    image = "registry.example.com/open-rerank"
    with tempfile.TemporaryDirectory() as folder:
        # kustomize takes relative paths only.
        shutil.copytree(DEPLOY / "kubernetes", folder, dirs_exist_ok=True)
        own = {
            "resources": [f"../{overlay}"],
            "components": ["../monitor", "../autoscaler", *more],
            "images": [{"name": "open-rerank", "newName": image}],
        }
        cluster = Path(folder, "cluster")
        cluster.mkdir()
        (cluster / "kustomization.yaml").write_text(json.dumps(own))  # JSON is YAML
        kinds = {document["kind"]: document for document in _built(cluster)}
    deployment = kinds["Deployment"]
    (server,) = deployment["spec"]["template"]["spec"]["containers"]
    assert server["image"].startswith(f"{image}:"), server["image"]
    assert "replicas" not in deployment["spec"]
    variables = [entry["name"] for entry in server["env"]]
    assert len(set(variables)) == len(variables), variables
    limited = bool(more) or overlay == "vision"
    assert ("RERANK_IMAGE_MAX_TILES" in variables) == limited, variables
    assert (server["resources"]["requests"]["memory"] == "18Gi") == limited, server["resources"]
    scaler = kinds["HorizontalPodAutoscaler"]
    names = {scaler["metadata"]["name"], scaler["spec"]["scaleTargetRef"]["name"]}
    assert names == {deployment["metadata"]["name"]}, names
    looked_for = kinds["ServiceMonitor"]["spec"]["selector"]["matchLabels"]
    assert looked_for.items() <= kinds["Service"]["metadata"]["labels"].items(), looked_for


def _chart() -> None:
    if not shutil.which("helm"):
        print("helm is not installed: the chart was read by the tests, not rendered")
        return
    chart = str(DEPLOY / "helm" / "open-rerank")
    kinds = _rendered(chart)
    assert set(kinds) == {"Deployment", "Service", "PodDisruptionBudget"}, kinds
    given = ("tls.secretName=pair", "serviceMonitor.enabled=true", "serviceMonitor.labels.a=b")
    secured = _rendered(chart, *(word for value in given for word in ("--set", value)))
    assert secured["ServiceMonitor"]["spec"]["endpoints"][0]["scheme"] == "https", secured
    for key, value in (("image.repository", "nvcr.io/nim/x"), ("storage.pvc.create", "true")):
        option = f"nimOperator.rerankqa.{key}={value}"
        command = ["helm", "template", "here", chart, "--set", option]
        refused = subprocess.run(command, capture_output=True, text=True, check=False).stderr
        assert f"nimOperator.rerankqa.{key}: found" in refused, refused
    gpu = _rendered(chart, "--set", r"nimOperator.rerankqa.resources.limits.nvidia\.com/gpu=1")
    assert gpu["Deployment"]["spec"]["strategy"]["rollingUpdate"]["maxSurge"] == 0, gpu
    for name in ("nv-ingest", "nemo-retriever"):
        over = str(DEPLOY / "helm" / f"{name}.yaml")
        assert set(_rendered(chart, "--values", over)) == set(kinds)
    images = ("nimOperator.rerankqa.enabled=false", "nimOperator.vlm_embed.enabled=true")
    sees = _rendered(chart, *(word for value in images for word in ("--set", value)))
    assert sees["Service"]["metadata"]["name"] == "llama-nemotron-embed-vl-1b-v2", sees
    print(f"helm template: {', '.join(kinds)}")


def _rendered(chart: str, *options: str) -> dict[str, Any]:
    """Kind → what helm makes of the chart's reranker."""
    built = yaml.safe_load_all(_run("helm", "template", "here", chart, *options))
    return {document["kind"]: document for document in built if document}


def _page(page: bytes) -> None:
    command = ["promtool", "check", "metrics"]
    done = subprocess.run(command, input=page, capture_output=True, check=False)
    # The names are NIM's and Triton's, whatever the linter prefers.
    if done.returncode not in (0, _LINT_ONLY):
        raise SystemExit(f"promtool cannot read the page:\n{done.stderr.decode()}")
    ours = [line for line in done.stderr.decode().splitlines() if line.startswith("rerank_")]
    assert not ours, ours
    print("promtool reads /v1/metrics")


def _scraped(url: str) -> None:
    with tempfile.TemporaryDirectory() as folder, _prometheus(Path(folder), url) as api:
        wait_until(lambda: _asked(api, "up") == ["1"], lambda: "waited for a first scrape")
        assert float(_asked(api, 'rerank_texts_total{kind="rank"}')[0]) == len(_BODY["passages"])
        assert _asked(api, "max(nv_inference_pending_request_count)") == ["0"]

        def evaluated() -> bool:
            groups = _got(f"{api}/rules").json()["data"]["groups"]
            rules = [rule for group in groups for rule in group["rules"]]
            assert not [rule for rule in rules if rule["health"] == "err"], rules
            return bool(rules) and all(rule["health"] == "ok" for rule in rules)

        wait_until(evaluated, lambda: "waited for every rule to be evaluated")
        (target,) = _got(f"{api}/targets").json()["data"]["activeTargets"]
        assert target["health"] == "up", target
        print("prometheus scrapes /v1/metrics and evaluates every rule")


@contextmanager
def _prometheus(folder: Path, url: str) -> Iterator[str]:
    """The API of a Prometheus that scrapes the server at `url` every second."""
    address = f"127.0.0.1:{free_port()}"
    targets = [{"targets": [url.removeprefix("http://")]}]
    scrape = {"job_name": "open-rerank", "metrics_path": "/v1/metrics", "static_configs": targets}
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(RULES)],
        "scrape_configs": [scrape],
    }
    (folder / "prometheus.yaml").write_text(json.dumps(config))  # JSON is YAML
    command = [
        "prometheus",
        f"--config.file={folder / 'prometheus.yaml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={address}",
        "--log.level=error",
    ]
    process = subprocess.Popen(command)
    try:
        yield f"http://{address}/api/v1"
    finally:
        process.terminate()
        process.wait()


def _got(url: str, **parameters: str) -> httpx.Response:
    return httpx.get(url, params=parameters, timeout=PATIENCE_S)


def _asked(api: str, query: str) -> list[str]:
    """The values that Prometheus has for `query` now; none while it starts."""
    try:
        reply = _got(f"{api}/query", query=query).raise_for_status()
    except httpx.HTTPError:
        return []
    return [one["value"][1] for one in reply.json()["data"]["result"]]


if __name__ == "__main__":
    sys.exit(main())
