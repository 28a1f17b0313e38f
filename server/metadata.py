"""What is served: models, metadata, version, manifest, licence, in the shapes of NIM 1.10.0."""

import hashlib
from functools import cache
from importlib.metadata import distribution

import msgspec
from litestar import Controller, get
from litestar.di import NamedDependency

from runtime.manifest import MANIFEST_FILE, read_manifest
from runtime.model import ModelInfo
from server.metrics import CONTENT_TYPE
from server.service import Service

PACKAGE = "open-rerank"
# The version of NIM's API whose shapes these are.
_API = "3.1.0"

Body = dict[str, object]


class Metadata(Controller):
    """GET routes about the served model; those that need it answer 503 until it is loaded."""

    @get("/v1/models")
    async def models(self, service: NamedDependency[Service]) -> Body:
        """One entry: clients and the Kubernetes operator take the first, or the only one."""
        name = service.served_name
        entry = {
            "id": name,
            "object": "model",
            "created": 0,
            "owned_by": name.split("/")[0] if "/" in name else PACKAGE,
            "root": name,
        }
        return {"object": "list", "data": [entry]}

    @get("/v1/metadata")
    async def metadata(self, service: NamedDependency[Service]) -> Body:
        """nv-ingest reads `version` and splits `shortName` at the colon."""
        info = service.ranker.info
        return {
            "assetInfo": [""],
            "licenseInfo": _license(),
            "modelInfo": [_model(service, info)],
            "repository_override": "",
            "selectedModelProfileId": info.target,
            "version": _version(),
        }

    @get("/v1/version")
    async def version(self) -> Body:
        """Our release, and the API it follows."""
        return {"release": _version(), "api": _API}

    @get("/v1/manifest")
    async def manifest(self, service: NamedDependency[Service]) -> Body:
        """The artifact as a NIM manifest: one profile and its files."""
        return {"manifest_file": _manifest_yaml(service), "repository_override": ""}

    @get("/v1/license")
    async def license(self) -> Body:
        """The licence of this software; a model's own is not among its files."""
        return _license()

    @get("/v1/metrics", media_type=CONTENT_TYPE)
    async def metrics(self, service: NamedDependency[Service]) -> bytes:
        """Prometheus text."""
        return service.metrics.render()


def _model(service: Service, info: ModelInfo) -> Body:
    name = service.served_name
    version = service.settings.model_version or info.version
    return {
        "modelUrl": f"artifact://{name}:{version}",
        "shortName": f"{name.rsplit('/', 1)[-1]}:{version}",
        "maxBatchSize": service.settings.max_passages,
        "maxTokens": info.max_tokens,
        "engine": info.engine,
        "device": info.device,
        "precision": info.precision,
        "proven": info.proven,
        "mock": info.mock,
    }


def _manifest_yaml(service: Service) -> str:
    """YAML; every value is written as JSON, which YAML reads as it is."""
    info = service.ranker.info
    files = _files(service)
    lines = [
        "schema_version: '2.0'",
        "profile_selection_criteria: auto",
        f"model: {_quoted(service.served_name)}",
        f"release: {_quoted(_version())}",
        "profiles:",
        f"- id: {_quoted(info.target)}",
        "  tags:",
        f"    backend: {_quoted(info.engine)}",
        f"    model_type: {_quoted(info.kind)}",
        f"    precision: {_quoted(info.precision)}",
        "  workspace:",
        "    files:" if files else "    files: {}",
    ]
    for name, checksum in sorted(files.items()):
        lines += [f"      {_quoted(name)}:", f"        checksum: {_quoted(checksum)}"]
    return "\n".join(lines) + "\n"


def _files(service: Service) -> dict[str, str]:
    directory = service.settings.model_dir
    if service.ranker.info.mock or directory is None or not (directory / MANIFEST_FILE).is_file():
        return {}
    return read_manifest(directory).files


def _quoted(value: str) -> str:
    return msgspec.json.encode(value).decode()


@cache
def _version() -> str:
    return distribution(PACKAGE).version


@cache
def _license() -> Body:
    content = distribution(PACKAGE).read_text("licenses/LICENSE") or ""
    return {
        "name": "LICENSE",
        "path": "LICENSE",
        "sha": hashlib.sha1(content.encode(), usedforsecurity=False).hexdigest(),
        "size": len(content),
        "url": "",
        "type": "file",
        "content": content,
    }
