"""Profiles are data: all of them load, and mistakes are named."""

import json
from pathlib import Path

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


def test_plans_of_towers_are_for_targets_in_half_precision() -> None:
    targets = map(profile.load_target_profile, profile.target_profile_names())
    tiles = {target.name: target.tiles for target in targets if target.tiles is not None}
    longer = (f"tensorrt-fp16-{kind}" for kind in ("4096", "8192", "lengths"))
    names = ("tensorrt-bf16", "tensorrt-fp16", *longer)
    assert tiles == dict.fromkeys(names, (1, 7, 28))


@pytest.mark.parametrize(
    ("tiles", "message"),
    [
        ([1, 28, 7], r"tiles = \[1, 28, 7\], wanted least <= best <= most"),
        ([0, 7, 28], ">= 1"),
        ([1, 28], "length 3"),
    ],
)
def test_tiles_out_of_order_are_refused(tiles: list[int], message: str) -> None:
    facts = msgspec.to_builtins(profile.load_target_profile("tensorrt-fp16"))
    with pytest.raises(msgspec.ValidationError, match=message):
        msgspec.convert(facts | {"tiles": tiles}, profile.TargetProfile)


@pytest.mark.parametrize(
    ("target", "changes", "message"),
    [
        ("cpu-fp32", {"packed": True}, "found operators = 'onnx' with lean or packed"),
        ("cuda-fp16", {"lean": True, "weights": "float32"}, "wanted half precision"),
    ],
)
def test_only_graphs_for_the_cuda_provider_are_lean_or_packed(
    target: str, changes: dict[str, object], message: str
) -> None:
    facts = msgspec.to_builtins(profile.load_target_profile(target))
    with pytest.raises(msgspec.ValidationError, match=message):
        msgspec.convert(facts | changes, profile.TargetProfile)


OWN: dict[str, object] = {
    "id": "somebody/own",
    "kind": "rank",
    "template": "{query}\n{passage}\n",
    "adds_bos": True,
    "adds_eos": False,
    "max_tokens": 512,
    "padding_side": "left",
}


def own(path: Path, **changes: object) -> str:
    """The path of a profile; strings, numbers and flags are written in TOML as in JSON."""
    facts = [
        f"{key}.{inner} = {json.dumps(found)}" if inner else f"{key} = {json.dumps(found)}"
        for key, value in (OWN | changes).items()
        for inner, found in (value.items() if isinstance(value, dict) else [("", value)])
        if found is not None
    ]
    path.write_text("\n".join(facts))
    return str(path)


def test_a_profile_of_ones_own_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = profile.load_model_profile(own(tmp_path / "bert-cross-encoder.toml"))
    assert (found.id, found.template) == ("somebody/own", "{query}\n{passage}\n")
    monkeypatch.chdir(tmp_path)
    assert profile.load_model_profile("bert-cross-encoder.toml") == found
    assert profile.load_model_profile("bert-cross-encoder") != found


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id": ""}, "id"),
        ({"id": "two words"}, "id"),
        ({"id": None}, "id"),
        ({"id": 5}, "id"),
        ({"kind": "score"}, "kind"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": "many"}, "max_tokens"),
        ({"dimensions": -1}, "dimensions"),
        ({"padding_side": "top"}, "padding_side"),
        ({"template": "{query}"}, "template"),
        ({"template": "{passage} {query}"}, "template"),
        ({"template": "{query} {passage} {passage}"}, "template"),
        ({"kind": "embed"}, "template"),
        ({"prefixes": {"query": "q: "}}, "prefixes for a reranker"),
        ({"kind": "embed", "template": None, "prefixes": {"document": ""}}, "document"),
        ({"kind": "embed", "template": None, "prefixes": {"query": 1}}, "prefixes"),
        ({"pooling": "avg"}, "pooling"),
    ],
)
def test_what_a_profile_of_ones_own_gets_wrong_is_named(
    changes: dict[str, object], message: str, tmp_path: Path
) -> None:
    path = own(tmp_path / "own.toml", **changes)
    with pytest.raises(ProfileError, match=rf"own\.toml: .*{message}"):
        profile.load_model_profile(path)


@pytest.mark.parametrize("content", [b"", b"id = ", b"\xff", b"{}", bytes(1 << 21)])
def test_what_is_no_profile_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_bytes(content)
    with pytest.raises(ProfileError, match=r"own\.toml"):
        profile.load_model_profile(str(tmp_path / "own.toml"))


def test_a_profile_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    (tmp_path / "folder.toml").mkdir()
    for name, why in (
        ("folder.toml", "directory"),
        ("absent.toml", "No such file"),
        ("a\0.toml", ""),
    ):
        with pytest.raises(ProfileError, match=f"cannot read the model profile .*{why}"):
            profile.load_model_profile(str(tmp_path / name))
