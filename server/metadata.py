"""Metadata routes in the shapes of NIM 1.10.0: models, metadata, version, manifest, licence."""

import hashlib
from functools import cache
from importlib.metadata import distribution
from typing import Any

import msgspec
from litestar import Controller, get
from litestar.di import NamedDependency

from runtime.version import DISTRIBUTION, version
from server.call import limit_of
from server.metrics import CONTENT_TYPE
from server.nim_error import NimError, error_body
from server.openapi import Operation
from server.served import Served
from server.service import Service
from server.surface import Surface

# The version of NIM's API that these shapes follow.
_API = "3.1.0"

Body = dict[str, Any]


class Metadata(Controller):
    """GET routes about the served models; those that need a model answer 503 until it is loaded."""

    @get("/v1/models")
    async def models(self, service: NamedDependency[Service]) -> Body:
        """One entry for each model. Clients take the first; the Kubernetes operator takes the only
        one, or the first whose root is its id."""
        return {"object": "list", "data": [_entry(served.name) for served in service.all_served]}

    @get("/v1/metadata")
    async def metadata(self, service: NamedDependency[Service]) -> Body:
        """nv-ingest reads `version` and splits `shortName` at the colon."""
        info = service.primary.model.info
        return {
            "assetInfo": [""],
            "licenseInfo": _license(),
            "modelInfo": [_model(service, served) for served in service.all_served],
            "repository_override": "",
            "selectedModelProfileId": info.target,
            "version": version(),
        }

    @get("/v1/version")
    async def release(self) -> Body:
        """Our release, and the API it follows."""
        return {"release": version(), "api": _API}

    @get("/v1/manifest")
    async def manifest(self, service: NamedDependency[Service]) -> Body:
        """The served artifacts as a NIM manifest: a profile with its files for each."""
        return {"manifest_file": _manifest_yaml(service), "repository_override": ""}

    @get("/v1/license")
    async def license(self) -> Body:
        """The licence of this software; a model's own is not among its files."""
        return _license()

    @get("/v1/metrics", media_type=CONTENT_TYPE)
    async def metrics(self, service: NamedDependency[Service]) -> bytes:
        """Prometheus text."""
        return service.metrics.render()


def _entry(name: str) -> Body:
    return {
        "id": name,
        "object": "model",
        "created": 0,
        "owned_by": name.split("/")[0] if "/" in name else DISTRIBUTION,
        "root": name,
    }


def _model(service: Service, served: Served) -> Body:
    info = served.model.info
    version = service.settings.model_version or info.version
    return {
        "modelUrl": f"artifact://{served.name}:{version}",
        "shortName": f"{served.name.rsplit('/', 1)[-1]}:{version}",
        "kind": info.kind,
        "maxBatchSize": limit_of(service.settings, info.kind).texts,
        "maxTokens": info.max_tokens,
        "dimensions": info.dimensions,
        "engine": info.engine,
        "device": info.device,
        "precision": info.precision,
        "proven": info.proven,
        "witness": info.witness,
        "mock": info.mock,
    }


def _manifest_yaml(service: Service) -> str:
    """The manifest as YAML; values are written as JSON, which is valid YAML."""
    lines = [
        "schema_version: '2.0'",
        "profile_selection_criteria: auto",
        f"model: {_quoted(service.primary.name)}",
        f"release: {_quoted(version())}",
        "profiles:",
    ]
    for served in service.all_served:
        info = served.model.info
        files = served.model.files
        lines += [
            f"- id: {_quoted(info.target)}",
            "  tags:",
            f"    backend: {_quoted(info.engine)}",
            f"    model_type: {_quoted(info.kind)}",
            f"    precision: {_quoted(info.precision)}",
            f"    witness: {_quoted(info.witness)}",
            "  workspace:",
            "    files:" if files else "    files: {}",
        ]
        for name, checksum in sorted(files.items()):
            lines += [f"      {_quoted(name)}:", f"        checksum: {_quoted(checksum)}"]
    return "\n".join(lines) + "\n"


def _quoted(value: str) -> str:
    return msgspec.json.encode(value).decode()


@cache
def _license() -> Body:
    content = distribution(DISTRIBUTION).read_text("licenses/LICENSE") or ""
    return {
        "name": "LICENSE",
        "path": "LICENSE",
        "sha": hashlib.sha1(content.encode(), usedforsecurity=False).hexdigest(),
        "size": len(content),
        "url": "",
        "type": "file",
        "content": content,
    }


class ModelList(msgspec.Struct):
    """GET /v1/models."""

    object: str
    data: list[dict[str, Any]]


def _operation(path: str, summary: str, reply: object = Body, **more: Any) -> Operation:
    return Operation(
        method="GET",
        path=path,
        tag="Metadata",
        summary=summary,
        reply=reply,
        error=NimError,
        **more,
    )


_NAME = "nvidia/llama-nemotron-rerank-1b-v2"
_LICENSE_EXAMPLE = {
    "name": "LICENSE",
    "path": "LICENSE",
    "sha": "2b8b815229aa8a61e483fb4ba0588b8b6c491890",
    "size": 11358,
    "url": "",
    "type": "file",
    "content": "Apache License …",
}
_MODEL_EXAMPLE = {
    "modelUrl": f"artifact://{_NAME}:9b80352abec3",
    "shortName": "llama-nemotron-rerank-1b-v2:9b80352abec3",
    "kind": "rank",
    "maxBatchSize": 64,
    "maxTokens": 8192,
    "dimensions": None,
    "engine": "onnxruntime-cpu",
    "device": "cpu",
    "precision": "fp32",
    "proven": True,
    "witness": "sentence-transformers 6.2.0, CrossEncoder",
    "mock": False,
}
_METADATA_EXAMPLE = {
    "assetInfo": [""],
    "licenseInfo": _LICENSE_EXAMPLE,
    "modelInfo": [_MODEL_EXAMPLE],
    "repository_override": "",
    "selectedModelProfileId": "cpu-fp32",
    "version": "0.1.0",
}

SURFACE = Surface(
    controllers=(Metadata,),
    operations=(
        _operation(
            "/v1/models",
            "The served models",
            ModelList,
            reply_example={"object": "list", "data": [_entry(_NAME)]},
            statuses=(503,),
        ),
        _operation(
            "/v1/metadata",
            "What is served, in NIM's shape",
            reply_example=_METADATA_EXAMPLE,
            statuses=(503,),
        ),
        _operation(
            "/v1/version",
            "Release and API version",
            reply_example={"release": "0.1.0", "api": _API},
        ),
        _operation(
            "/v1/manifest",
            "The artifact as a NIM manifest",
            reply_example={"manifest_file": "schema_version: '2.0'\n…", "repository_override": ""},
            statuses=(503,),
        ),
        _operation("/v1/license", "The licence of this software", reply_example=_LICENSE_EXAMPLE),
        _operation(
            "/v1/metrics",
            "Prometheus metrics",
            str,
            reply_example='request_count_total{route="/v1/ranking",status="200"} 1.0\n',
            media_type=CONTENT_TYPE,
        ),
    ),
    error_format=error_body,
    paths=(),
)
