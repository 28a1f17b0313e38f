"""NVIDIA's Nemotron VL: SigLIP, a projector and a Llama that reads both ways, as two graphs.

The tower's graph turns tiles into image embeddings, the text graph takes these beside the tokens.
Which token is replaced by which embedding is said by whoever calls it: the graph looks for no
token. Parameter names are the checkpoints', without the prefix `model.` and with one
`vision_model.`.
"""

from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from exporter.architectures.base import Architecture, Body, CrossEncoder, halve_products
from exporter.architectures.config import Config, unlike_base
from exporter.architectures.llama import BidirectionalLlama
from exporter.architectures.pooling import pool
from exporter.architectures.siglip import Siglip, patches

PIXELS_INPUT = "pixel_values"
INDEX_INPUT, EMBEDS_INPUT = "image_index", "image_embeds"
_PROJECTOR_EPS = 1e-5


class FusedLlama(BidirectionalLlama):
    """input_ids, attention_mask, image_index int64 [batch, sequence], image_embeds float32 [tiles,
    tokens, hidden] → states.

    Where `image_index` is k > 0, the token's embedding is row k of all image embeddings, counted
    from 1; there may be no tile at all.
    """

    inputs = ("input_ids", "attention_mask", INDEX_INPUT, EMBEDS_INPUT)
    prefix = "language_model."

    @staticmethod
    def _reads_one_way(config: Config) -> bool:
        if BidirectionalLlama._reads_one_way(config):
            raise unlike_base("a causal llm_config", "one that reads both ways")
        return False

    def embedded(self, input_ids: Tensor, *images: Tensor) -> Tensor:
        """See BidirectionalLlama."""
        words, (image_index, image_embeds) = super().embedded(input_ids), images
        rows = image_embeds.flatten(0, 1)
        # A row before the first, so that no index points into nothing.
        table = torch.cat([rows.new_zeros(1, self.hidden), rows])
        return torch.where(
            image_index.unsqueeze(2) > 0, functional.embedding(image_index, table), words
        )


class Tower(nn.Module):
    """pixel_values float32 [tiles, 3, size, size] → image_embeds [tiles, tokens, hidden]."""

    inputs = (PIXELS_INPUT,)
    output = EMBEDS_INPUT

    def __init__(self, vision_model: Siglip, mlp1: nn.Sequential) -> None:
        super().__init__()
        self.vision_model, self.mlp1 = vision_model, mlp1

    def forward(self, pixel_values: Tensor) -> Tensor:
        states = self.vision_model(pixel_values)
        joined = join_patches(states, int(states.shape[1] ** 0.5))
        norm, first, activation, second = self.mlp1
        found = activation(first(norm(joined).to(first.weight.dtype)))
        return second(found).float()


class NemotronVL(Architecture):
    """What reranker and embedder share."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        vision, llm = config.settings("vision_config"), config.settings("llm_config")
        joined, hidden = 4 * vision.whole("hidden_size"), llm.whole("hidden_size")
        self.pooling = "avg"
        self.tile_size = vision.whole("image_size")
        self.tile_tokens = (patches(vision) // 2) ** 2
        self.vision_model = Siglip(vision)
        self.mlp1 = nn.Sequential(
            nn.LayerNorm(joined, _PROJECTOR_EPS),
            nn.Linear(joined, hidden),
            nn.GELU(),
            nn.Linear(hidden, hidden),
        )
        self.language_model = FusedLlama(llm)

    @property
    def body(self) -> Body:
        """See Architecture."""
        return self.language_model

    @property
    def tower(self) -> Tower:
        """The other graph."""
        return Tower(self.vision_model, self.mlp1)

    def take_tower(self) -> Tower:
        """The other graph, which this model has no longer."""
        tower = self.tower
        del self.vision_model, self.mlp1
        return tower

    def states(self, *inputs: Any) -> Tensor:
        """See Architecture; of texts alone, whatever else is given."""
        return self.language_model(*inputs[:2], *self.blank_inputs(inputs[0]).values())

    def blank_inputs(self, input_ids: Tensor) -> dict[str, Tensor]:
        """See Architecture."""
        nothing = torch.zeros(0, self.tile_tokens, self.language_model.hidden)
        return {INDEX_INPUT: torch.zeros_like(input_ids), EMBEDS_INPUT: nothing}

    def halve(self, dtype: torch.dtype) -> Self:
        """See Architecture; of the tower as well."""
        for tower in (self.vision_model, self.mlp1):
            halve_products(tower, dtype)
        return super().halve(dtype)

    def _pooled(self, *inputs: Tensor) -> Tensor:
        return pool(self.language_model(*inputs), inputs[1], self.pooling)


class NemotronVLCrossEncoder(NemotronVL, CrossEncoder):
    """The inputs of FusedLlama → logits float32 [batch, 1]."""

    trunk = FusedLlama
    logit = "score.weight"
    templated = True

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.temperature = config.number("temperature", 1.0)
        self.score = nn.Linear(self.language_model.hidden, 1, bias=False)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, image_index: Tensor, image_embeds: Tensor
    ) -> Tensor:
        pooled = self._pooled(input_ids, attention_mask, image_index, image_embeds)
        return self.score(pooled) / self.temperature


class NemotronVLEmbedder(NemotronVL):
    """The inputs of FusedLlama → embeddings float32 [batch, hidden], of any length."""

    output = "embeddings"
    trunk: ClassVar[type[Body]] = FusedLlama

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.dimensions = self.language_model.hidden

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, image_index: Tensor, image_embeds: Tensor
    ) -> Tensor:
        return self._pooled(input_ids, attention_mask, image_index, image_embeds)


def join_patches(states: Tensor, side: int) -> Tensor:
    """Two rows and two columns of patches as one token: [tiles, side², size] → [tiles, side²/4,
    4 × size], counted row by row, the upper two before the lower two."""
    grid = states.unflatten(1, (side // 2, 2, side // 2, 2))
    return grid.permute(0, 1, 3, 2, 4, 5).flatten(3).flatten(1, 2)
