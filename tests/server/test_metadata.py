"""Metadata routes, as NVIDIA's clients read them."""

import hashlib
from importlib.metadata import version

import httpx

from tests.server.conftest import IMAGE_BYTES, IMAGE_PIXELS, IMAGE_TILES
from tests.server.in_process import InProcess

MODEL = "nvidia/llama-nemotron-rerank-1b-v2"
EMBEDDER = "nvidia/llama-nemotron-embed-1b-v2"


def test_models(client: httpx.Client) -> None:
    found = client.get("/v1/models").json()
    entries = [
        {"id": name, "object": "model", "created": 0, "owned_by": "nvidia", "root": name}
        for name in (MODEL, EMBEDDER)
    ]
    assert found == {"object": "list", "data": entries}


def test_metadata(client: httpx.Client) -> None:
    found = client.get("/v1/metadata").json()
    assert set(found) == {
        "assetInfo",
        "licenseInfo",
        "modelInfo",
        "repository_override",
        "selectedModelProfileId",
        "version",
    }
    assert found["assetInfo"] == [""]
    assert found["repository_override"] == ""
    assert found["version"] == version("open-rerank")
    model, embedder = found["modelInfo"]
    assert (model["kind"], embedder["kind"]) == ("rank", "embed")
    assert embedder["dimensions"] == 64
    assert embedder["maxBatchSize"] == 30
    assert model["modelUrl"] == f"artifact://{MODEL}:1.2.3"
    assert model["shortName"] == "llama-nemotron-rerank-1b-v2:1.2.3"
    assert model["shortName"].split(":")[0] == "llama-nemotron-rerank-1b-v2"
    assert model["maxBatchSize"] == 64
    assert model["maxTokens"] == 200
    assert model["mock"] is True
    assert model["images"] is None


def test_limits_of_images(vision_server: InProcess) -> None:
    models = vision_server.get("/v1/metadata").json()["modelInfo"]
    settings = vision_server.settings
    assert [model["images"] for model in models] == 2 * [
        {
            "maxBytes": IMAGE_BYTES,
            "maxPixels": IMAGE_PIXELS,
            "maxTiles": IMAGE_TILES,
            "maxRequestBytes": settings.body_limit_bytes,
        }
    ]


def test_version(client: httpx.Client) -> None:
    found = client.get("/v1/version").json()
    assert found == {"release": version("open-rerank"), "api": "3.1.0"}


def test_manifest(client: httpx.Client) -> None:
    found = client.get("/v1/manifest").json()
    assert set(found) == {"manifest_file", "repository_override"}
    assert found["manifest_file"].startswith("schema_version: '2.0'\n")
    assert f'model: "{MODEL}"' in found["manifest_file"]


def test_license(client: httpx.Client) -> None:
    found = client.get("/v1/license").json()
    assert set(found) == {"name", "path", "sha", "size", "url", "type", "content"}
    assert "Apache License" in found["content"]
    assert found["size"] == len(found["content"])
    assert found["sha"] == hashlib.sha1(found["content"].encode()).hexdigest()
    assert client.get("/v1/metadata").json()["licenseInfo"] == found
