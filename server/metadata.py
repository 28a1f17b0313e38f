"""Metadata routes in the shapes of NIM 1.10.0: models, metadata, version, manifest, licence."""

import hashlib
from functools import cache
from importlib.metadata import distribution
from typing import Any

import msgspec
from litestar import Controller, Response, get
from litestar.di import NamedDependency

from runtime.version import DISTRIBUTION, version
from server.call import limit_of
from server.errors import NotReady
from server.metrics import CONTENT_TYPE
from server.nim_error import error_body
from server.served import Served
from server.service import Service
from server.surface import Surface

# The version of NIM's API that these shapes follow.
_API = "3.1.0"

Body = dict[str, Any]


class ModelList(msgspec.Struct, kw_only=True):
    """GET /v1/models."""

    object: str = "list"
    data: list[Body]


class Metadata(Controller):
    """GET routes about the served models; those that need a model answer 503 until it is loaded."""

    tags = ("Metadata",)

    @get("/v1/models", errors=(NotReady,))
    async def models(self, service: NamedDependency[Service]) -> Response[ModelList]:
        """The served models.

        Clients take the first; the Kubernetes operator takes the only one, or the first whose root
        is its id.
        """
        return Response(ModelList(data=[_entry(served.name) for served in service.all_served]))

    @get("/v1/metadata", errors=(NotReady,))
    async def metadata(self, service: NamedDependency[Service]) -> Body:
        """What is served, in NIM's shape.

        nv-ingest reads `version` and splits `shortName` at the colon.
        """
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
        """Release and API version."""
        return {"release": version(), "api": _API}

    @get("/v1/manifest", errors=(NotReady,))
    async def manifest(self, service: NamedDependency[Service]) -> Body:
        """The artifact as a NIM manifest.

        A profile with its files for each model.
        """
        return {"manifest_file": _manifest_yaml(service), "repository_override": ""}

    @get("/v1/license")
    async def license(self) -> Body:
        """The licence of this software.

        A model's own is not among its files.
        """
        return _license()

    @get("/v1/metrics", media_type=CONTENT_TYPE)
    async def metrics(self, service: NamedDependency[Service]) -> bytes:
        """Prometheus metrics."""
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
        "images": _image_limits(service) if info.images else None,
        "engine": info.engine,
        "device": info.device,
        "precision": info.precision,
        "proven": info.proven,
        "witness": info.witness,
        "mock": info.mock,
    }


def _image_limits(service: Service) -> Body:
    settings = service.settings
    return {
        "maxBytes": settings.image_bytes,
        "maxPixels": settings.image_pixels,
        "maxTiles": settings.image_tiles,
        "maxRequestBytes": settings.body_limit_bytes,
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


SURFACE = Surface(controllers=(Metadata,), error_format=error_body, paths=())
