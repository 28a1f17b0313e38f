"""Health routes of a ready server; what they say while it loads stands in test_lifecycle."""

import itertools

import httpx
import pytest

from server.service import Service


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/health/live", {"object": "health.response", "message": "Service is live."}),
        ("/v1/health/ready", {"object": "health.response", "message": "Service is ready."}),
        ("/health", {"status": "ok", "model_loaded": True, "device": "cpu"}),
    ],
)
def test_bodies(client: httpx.Client, path: str, body: dict[str, object]) -> None:
    response = client.get(path)
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.json() == body


@pytest.mark.parametrize("what", ["live", "ready"])
def test_kserve_s_bodies(client: httpx.Client, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """As the Open Inference Protocol has them; the kserve SDK reads them."""
    for holds, status in ((True, 200), (False, 503)):
        with monkeypatch.context() as patch:
            patch.setattr(Service, what, property(lambda _: holds))  # noqa: B023
            response = client.get(f"/v2/health/{what}")
        assert response.status_code == status
        assert response.headers["content-type"] == "application/json"
        assert response.json() == {what: holds}


@pytest.mark.parametrize(
    "path",
    ["/v1/health/live", "/v1/health/ready", "/health", "/v2/health/live", "/v2/health/ready"],
)
def test_head(client: httpx.Client, path: str) -> None:
    response = client.head(path)
    assert (response.status_code, response.content) == (200, b"")


@pytest.mark.parametrize("what", ["live", "ready"])
def test_the_words_and_the_status_are_of_one_look(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    slices = itertools.cycle([True, False])
    with monkeypatch.context() as patch:
        patch.setattr(Service, "live", property(lambda _: next(slices)))
        found = [client.get(f"/v1/health/{what}") for _ in range(4)]
        plain = [client.get("/health") for _ in range(4)]
    assert [one.status_code for one in found] == [200, 503] * 2
    for one in found:
        assert ("not" in one.json()["message"]) == (one.status_code == 503)
    for one in plain:
        assert (one.json()["status"] == "ok") == (one.status_code == 200)
