"""Profiles are data: all of them load, and mistakes are named."""

import msgspec
import pytest

from runtime import profile
from runtime.engines import ENGINES
from runtime.errors import ProfileError


@pytest.mark.parametrize("name", profile.model_profile_names())
def test_every_model_profile_loads(name: str) -> None:
    facts = profile.load_model_profile(name)
    assert facts.id.rsplit("/", 1)[-1] == name


@pytest.mark.parametrize("name", profile.target_profile_names())
def test_every_target_profile_loads_and_names_an_engine(name: str) -> None:
    target = profile.load_target_profile(name)
    assert target.name == name
    assert target.engine in ENGINES


def test_the_template_has_real_newlines() -> None:
    template = profile.load_model_profile("nvidia/llama-nemotron-rerank-1b-v2").template
    assert template == "question:{query} \n \n passage:{passage}"


def test_an_embedders_prefixes_end_in_one_blank() -> None:
    facts = profile.load_model_profile("nvidia/llama-nemotron-embed-1b-v2")
    assert facts.kind == "embed"
    assert facts.prefixes == {"query": "query: ", "passage": "passage: "}


def test_an_unknown_profile_lists_the_known_ones() -> None:
    with pytest.raises(ProfileError, match="tiny-rerank-v1"):
        profile.load_model_profile("no-such-model")


@pytest.mark.parametrize("name", ["../targets/cpu-fp32", "models/../x", ""])
def test_a_profile_name_is_no_path(name: str) -> None:
    with pytest.raises(ProfileError):
        profile.load_target_profile(name)


def test_the_shapes_of_a_plan_are_the_recipes() -> None:
    (shapes,) = profile.load_target_profile("tensorrt-fp16").shapes
    assert (shapes.batch, shapes.sequence) == ((1, 16, 64), (3, 256, 512))


@pytest.mark.parametrize(
    ("name", "longest"),
    [("tensorrt-fp16", 512), ("tensorrt-fp16-4096", 4096), ("tensorrt-fp16-8192", 8192)],
)
def test_sequence_profiles_are_data_and_hold_their_token_budget(name: str, longest: int) -> None:
    target = profile.load_target_profile(name)
    assert max(shapes.sequence[2] for shapes in target.shapes) == longest
    assert all(s.batch[2] * s.sequence[2] <= target.token_budget for s in target.shapes)


def test_shapes_out_of_order_are_refused() -> None:
    with pytest.raises(msgspec.ValidationError, match="least <= best <= most"):
        msgspec.convert({"batch": [1, 16, 8], "sequence": [3, 256, 512]}, profile.Shapes)
