"""The bodies of `make hostile`, small: every surface refuses them in its own words."""

import pytest

from checks.hostile.bodies import BODIES, MODEL, Body
from checks.hostile.sending import Address, send
from tests.server.conftest import BODY_LIMIT_BYTES, Server
from tests.server.surfaces.kserve_requests import RANK


@pytest.mark.parametrize("surface", sorted({body.surface for body in BODIES}))
def test_hostile_bodies_are_refused(mock_server: Server, surface: str) -> None:
    to = Address(("127.0.0.1", mock_server.port), f"127.0.0.1:{mock_server.grpc_port}")
    path = surface.replace(MODEL, RANK)

    def answer(body: Body) -> str:
        return send(to, path, body.make(BODY_LIMIT_BYTES // 2), body.headers)

    found = {body.name: answer(body) for body in BODIES if body.surface == surface}
    wrong = {
        b.name: found[b.name] for b in BODIES if b.name in found and found[b.name] not in b.answers
    }
    assert not wrong
    assert mock_server.get("/v1/health/ready").status_code == 200
