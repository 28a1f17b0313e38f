"""transformers' own SigLIP and Llama, put together: the witness of NVIDIA's Nemotron VL models.

Their own classes are remote code, which never runs. What these add to SiglipVisionModel and
LlamaModel: images cut into tiles whose pixels are rounded to bfloat16, four patches joined to one
token and projected, image tokens replaced by these, every token seeing every other, the mean over
all tokens, and a score head divided by the temperature.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaModel, SiglipVisionConfig, SiglipVisionModel

from exporter.answers import Tokens
from exporter.errors import NoWitness
from exporter.witness.base import (
    RankWitness,
    Values,
    VectorWitness,
    complete_weights,
    trying,
)
from exporter.witness.files import both_ways, read, tokenizer_of
from exporter.witness.tensors import stored_tensors
from runtime.postprocess import InputType

MODEL_TYPES = ("llama_nemotron_vl_rerank", "llama_nemotron_vl")
_PROCESSOR = "processor_config.json"
_BEFORE, _CONTEXT, _AFTER = "<img>", "<IMG_CONTEXT>", "</img>"
_TOWER = "SiglipVisionModel and"


@dataclass(frozen=True)
class Sight:
    """One image on its way into the model: `pixels` float32 [tiles, 3, size, size], `embeds`
    float32 [tiles, tokens, hidden]."""

    pixels: np.ndarray
    embeds: np.ndarray


class _Model:
    """Everything between a picture or a prompt and the mean of the states."""

    def __init__(self, directory: Path, config: dict[str, Any]) -> None:
        """Load `directory`. Raises NoWitness."""
        # What is asked of the processor, its own file's words before the config's.
        self.asked = asked = config | read(directory / _PROCESSOR, dict[str, Any], {})
        self._size = int(config.get("force_image_size") or config["vision_config"]["image_size"])
        self._tiles = int(asked["max_input_tiles"])
        self._dynamic = bool(asked["dynamic_image_size"])
        self._thumbnail = bool(asked["use_thumbnail"])
        if config.get("pooling") != "avg" or config.get("select_layer", -1) != -1:
            raise NoWitness("config.json pools otherwise than by the mean of the last layer")
        weights = {
            name.removeprefix("model."): tensor
            for name, tensor in stored_tensors(directory).items()
        }
        vision = SiglipVisionConfig.from_dict({**config["vision_config"], "vision_use_head": False})
        text = {
            key: value
            for key, value in config["llm_config"].items()
            if key not in ("auto_map", "model_type", "architectures")
        }
        tower = {
            name.rpartition("vision_model.")[2]: tensor
            for name, tensor in weights.items()
            if name.startswith("vision_model.") and ".head." not in name
        }
        self._tower = _load(SiglipVisionModel, vision, tower)
        words = _below(weights, "language_model.")
        self._llama = _load(LlamaModel, LlamaConfig.from_dict(text), words)
        joined, hidden = 4 * vision.hidden_size, text["hidden_size"]
        self._projector = nn.Sequential(
            nn.LayerNorm(joined),
            nn.Linear(joined, hidden),
            nn.GELU(),
            nn.Linear(hidden, hidden),
        )
        _fill(self._projector, _below(weights, "mlp1."))
        self.score = nn.Linear(hidden, 1, bias=False)
        if "score.weight" in weights:
            _fill(self.score, {"weight": weights["score.weight"]})
        self._tokenizer = tokenizer_of(directory)
        # Nothing is cut here, and nothing need be said of long rows.
        self._tokenizer.model_max_length = int(1e30)

    @torch.inference_mode()
    def see(self, image: bytes) -> Sight:
        """The image's pixels and embeddings."""
        tiles = [torch.from_numpy(np.array(tile)) for tile in self._cut(image)]
        pixels = ((torch.stack(tiles).permute(0, 3, 1, 2).float() / 255) - 0.5) / 0.5
        pixels = pixels.to(torch.bfloat16).float().contiguous()
        states = self._tower(pixel_values=pixels).last_hidden_state
        side = round(states.shape[1] ** 0.5)
        grid = states.view(len(states), side, side, -1)
        # Two rows and two columns of patches side by side, row by row.
        joined = torch.cat(
            [grid[:, down::2, right::2] for down in (0, 1) for right in (0, 1)], dim=-1
        )
        embeds = self._projector(joined.flatten(1, 2))
        return Sight(pixels.numpy(), embeds.numpy())

    def tokens(self, text: str, tiles: int = 0) -> Tokens:
        """`text` as the model is fed it, in which {image} stands for an image of `tiles` tiles."""
        if tiles:
            count = tiles * (self._size // self._tower.config.patch_size // 2) ** 2
            text = text.replace("{image}", _BEFORE + _CONTEXT * count + _AFTER, 1)
        return Tokens(self._tokenizer(text)["input_ids"], None)

    @torch.inference_mode()
    def pooled(self, tokens: Tokens, sight: Sight | None) -> Tensor:
        """The mean of the states of one row, float32 [hidden]."""
        ids = torch.tensor([tokens.token_ids])
        embeds = self._llama.embed_tokens(ids)
        if sight is not None:
            rows = torch.from_numpy(sight.embeds).flatten(0, 1)
            first = tokens.token_ids.index(self._id(_BEFORE)) + 1
            seen = ids[0, first : first + len(rows)]
            if len(seen) < len(rows) or not bool((seen == self._id(_CONTEXT)).all()):
                raise NoWitness("a row has fewer image tokens than its image")
            embeds[0, first : first + len(rows)] = rows
        mask = torch.ones(1, 1, ids.shape[1], ids.shape[1], dtype=torch.bool)
        found = self._llama(inputs_embeds=embeds, attention_mask=mask, use_cache=False)
        states: Tensor = found.last_hidden_state[0]
        return states.mean(dim=0)

    def _id(self, text: str) -> int:
        return int(self._tokenizer.convert_tokens_to_ids(text))

    def _cut(self, image: bytes) -> Iterator[Any]:
        """The tiles of an image in PIL's own terms, as upstream's processor cuts them."""
        from PIL import Image  # late: only models that see need Pillow

        whole = Image.open(BytesIO(image)).convert("RGB")
        size, (columns, rows) = self._size, self._grid(*whole.size)
        resized = whole.resize((columns * size, rows * size))
        for tile in range(columns * rows):
            left, top = tile % columns * size, tile // columns * size
            yield resized.crop((left, top, left + size, top + size))
        if self._thumbnail and columns * rows > 1:
            yield whole.resize((size, size))

    def _grid(self, width: int, height: int) -> tuple[int, int]:
        if not self._dynamic:
            return 1, 1
        most = range(1, self._tiles + 1)
        shapes = {(i, j) for n in most for i in range(1, n + 1) for j in range(1, n + 1)}
        shapes = {shape for shape in shapes if shape[0] * shape[1] <= self._tiles}

        def score(shape: tuple[int, int]) -> float:
            area = shape[0] * shape[1] * self._size * self._size / (width * height)
            ratio, wanted = width / height, shape[0] / shape[1]
            return min(area, 0.6) * min(wanted / ratio, ratio / wanted)

        # max takes the first of those that are alike.
        return max(sorted(shapes, key=lambda shape: shape[0] * shape[1]), key=score)


class VisionReranker(RankWitness):
    """Texts, images and both, scored for a query."""

    def __init__(self, directory: Path, config: dict[str, Any]) -> None:
        """Load `directory`. Raises NoWitness."""
        self.name = both_ways(f"{_TOWER} LlamaModel and a score head")
        self._model = _load_whole(directory, config)
        self._temperature = config.get("temperature") or 1.0
        v1 = self._model.asked.get("prompt_template") == "v1"
        self._prompt = "question:{} \n \n passage:{}" if v1 else "{} \n {}"

    def see(self, image: bytes) -> Sight:
        """See `_Model.see`."""
        return self._model.see(image)

    def score(self, query: str, passage: str) -> tuple[Tokens, Values]:
        """See RankWitness."""
        # What stands for an image is replaced by nothing where there is none.
        text = self._prompt.format(query, passage).replace("<image>", "", 1)
        tokens = self._model.tokens(text)
        return tokens, self.values(tokens)

    def score_image(self, query: str, passage: str, sight: Sight) -> tuple[Tokens, Values]:
        """`score` of an image and the text beside it, which may be empty."""
        text = "{image} " + self._prompt.format(query, passage)
        tokens = self._model.tokens(text, len(sight.pixels))
        return tokens, self.values(tokens, sight)

    @torch.inference_mode()
    def values(self, tokens: Tokens, sight: Sight | None = None) -> Values:
        """See Witness; `sight` is the image of the row, if it has one."""
        logit = self._model.score(self._model.pooled(tokens, sight)) / self._temperature
        return np.asarray(logit.numpy(), np.float64)


class VisionEmbedder(VectorWitness):
    """Texts, images and both, as vectors of any length."""

    def __init__(self, directory: Path, config: dict[str, Any], prefixes: dict[str, str]) -> None:
        """Load `directory`; `prefixes` by input type go before texts where config.json names none.
        Raises NoWitness."""
        self.name = both_ways(f"{_TOWER} LlamaModel")
        self._model = _load_whole(directory, config)
        self._prefixes = dict(prefixes)
        for kind in ("query", "passage"):
            if prefix := self._model.asked.get(f"{kind}_prefix"):
                self._prefixes[kind] = f"{prefix} "

    def see(self, image: bytes) -> Sight:
        """See `_Model.see`."""
        return self._model.see(image)

    def embed(self, text: str, input_type: InputType | None) -> tuple[Tokens, Values]:
        """See VectorWitness."""
        prefix = self._prefixes.get(input_type, "") if input_type else ""
        tokens = self._model.tokens(prefix + text)
        return tokens, self.values(tokens)

    def embed_image(self, text: str, sight: Sight) -> tuple[Tokens, Values]:
        """The passage of an image and the text beside it, which may be empty."""
        whole = self._prefixes["passage"] + "{image} " + text
        tokens = self._model.tokens(whole, len(sight.pixels))
        return tokens, self.values(tokens, sight)

    @torch.inference_mode()
    def values(self, tokens: Tokens, sight: Sight | None = None) -> Values:
        """See Witness; `sight` is the image of the row, if it has one."""
        return np.asarray(self._model.pooled(tokens, sight).numpy(), np.float64)


def _load_whole(directory: Path, config: dict[str, Any]) -> _Model:
    with trying(f"SigLIP and Llama cannot be put together of {directory}"):
        return _Model(directory, config)


def _load(kind: Any, config: Any, weights: dict[str, Any]) -> Any:
    with complete_weights():
        return kind.from_pretrained(
            None, config=config, state_dict=weights, dtype=torch.float32
        ).eval()


def _below(weights: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in weights.items()
        if name.startswith(prefix)
    }


def _fill(module: nn.Module, weights: dict[str, Any]) -> None:
    module.load_state_dict({name: tensor[...] for name, tensor in weights.items()})
    module.eval()
