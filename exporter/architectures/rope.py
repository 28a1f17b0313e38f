"""Rotary frequencies of decoders, from either spelling of the rope settings in config.json.

transformers 4 writes `rope_theta` and `rope_scaling`, transformers 5 `rope_parameters`. Rope types
`default`, `llama3` and `yarn` are known; others are refused by name.
"""

import math

import torch
from torch import Tensor

from exporter.architectures.attention import frequencies
from exporter.architectures.config import Config, shown, unlike_base
from exporter.errors import CheckpointRefused

_KINDS = ("default", "llama3", "yarn")
# Ministral's queries grow by its logarithm from the original limit of positions on.
_QUERY_SCALE = "llama_4_scaling_beta"
_ORIGINAL = "original_max_position_embeddings"


def rope_settings(config: Config) -> Config:
    """The rope settings of config.json. Raises CheckpointRefused for contradictory ones."""
    rope = config.settings("rope_parameters") or config.settings("rope_scaling")
    _refuse_contradictions(config, rope)
    return rope


def rotary_frequencies(config: Config, size: int) -> Tensor:
    """Angles per position, float32 [size / 2], of a head of `size` components."""
    rope = rope_settings(config)
    theta = rope.number("rope_theta", config.number("rope_theta", 10000.0))
    named = "type" if rope.get("rope_type") is None else "rope_type"
    kind = Config({"rope_type": rope.get(named)}).one_of("rope_type", _KINDS, "default")
    rope.refuse_unless("partial_rotary_factor", 1.0)
    plain = frequencies(theta, size)
    if kind == "yarn":
        return _yarn_scaled(plain, rope, theta)
    return plain if kind == "default" else _llama3_scaled(plain, rope)


def position_limit(config: Config, limit: int) -> int:
    """`limit` lowered to the positions before which queries are not scaled."""
    rope = rope_settings(config)
    return limit if rope.get(_QUERY_SCALE) is None else min(limit, rope.whole(_ORIGINAL))


def _refuse_contradictions(config: Config, rope: Config) -> None:
    """Versions of transformers resolve such contradictions differently, so they are refused."""
    outer = {**config.settings("rope_scaling")}
    for key in ("rope_theta", _ORIGINAL):
        outer.setdefault(key, config.get(key))
    for key, found in outer.items():
        if found is not None and rope.get(key) is not None and rope[key] != found:
            raise CheckpointRefused(
                f"config.json says both {shown(found)} and {shown(rope[key])} for {key}; keep the "
                "one that the model was trained with"
            )


def _llama3_scaled(plain: Tensor, rope: Config) -> Tensor:
    """Llama 3.1's scaling: long waves slowed by `factor`, short ones kept, a ramp between."""
    factor, original = rope.number("factor"), rope.number(_ORIGINAL)
    low, high = rope.number("low_freq_factor"), rope.number("high_freq_factor")
    if low >= high:
        found = f"low_freq_factor = {low} and high_freq_factor = {high}"
        raise unlike_base(found, "the first below the second")
    wavelength = 2 * math.pi / plain
    ramp = (original / wavelength - low) / (high - low)
    mixed = (1 - ramp) * plain / factor + ramp * plain
    scaled = torch.where(wavelength > original / low, plain / factor, mixed)
    return torch.where(wavelength < original / high, plain, scaled)


def _yarn_scaled(plain: Tensor, rope: Config, theta: float) -> Tensor:
    """YaRN (Peng et al. 2023, arXiv:2309.00071, section 3.2): components that turn more than
    `beta_fast` times within the original positions are kept, those that turn less than `beta_slow`
    times are slowed by `factor`, with a ramp between."""
    _refuse_scaled_angles(rope)
    factor, original = rope.number("factor"), rope.whole(_ORIGINAL)
    size = 2 * len(plain)

    def component(turns: float) -> float:
        return size * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low = component(rope.number("beta_fast", 32.0))
    high = component(rope.number("beta_slow", 1.0))
    if rope.flag("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, size - 1)
    if low >= high:
        found = f"yarn's beta_fast and beta_slow at components {low} and {high}"
        raise unlike_base(found, "the first below the second")
    places = torch.arange(len(plain), device="cpu").float()
    ramp = ((places - low) / (high - low)).clamp(0, 1)
    return plain / factor * ramp + plain * (1 - ramp)


def _refuse_scaled_angles(rope: Config) -> None:
    """Yarn also multiplies sine and cosine, except where these keys make it 1."""
    scale, all_dims = rope.get("mscale"), rope.get("mscale_all_dim")
    if rope.get("attention_factor") not in (None, 1.0) or not scale or scale != all_dims:
        raise CheckpointRefused(
            f"config.json has yarn with mscale = {shown(scale)}, mscale_all_dim = "
            f"{shown(all_dims)} and attention_factor = {shown(rope.get('attention_factor'))}, "
            "wanted the first two equal and no attention_factor: scaled angles are not implemented"
        )
