"""Which names a client may use."""

import pytest

from server.names import AcceptedNames


@pytest.mark.parametrize("served", ["ranker-v2", "nvidia/ranker-v2"])
@pytest.mark.parametrize("asked", ["ranker-v2", "nvidia/ranker-v2"])
def test_a_served_name_has_the_hosted_organisation_or_none(served: str, asked: str) -> None:
    """The hosted service's paths, which litellm calls on any server, always name one."""
    assert asked in AcceptedNames(served, "rank")


def test_another_organisation_is_another_model() -> None:
    assert "nvidia/ranker" not in AcceptedNames("acme/ranker", "rank")
    assert "ranker" in AcceptedNames("acme/ranker", "rank")


def test_each_kind_has_nvidia_s_names_of_both_generations() -> None:
    names = AcceptedNames("acme/embedder", "embed")
    assert "nvidia/llama-3.2-nv-embedqa-1b-v2" in names
    assert "llama-3_2-nv-embedqa-1b-v2" in names
    assert "nvidia/llama-nemotron-embed-1b-v2" in names
    assert "nvidia/llama-nemotron-rerank-1b-v2" not in names
