"""What every architecture offers the exporter."""

from abc import ABC, abstractmethod
from typing import Any, Self

from torch import Tensor, nn


class Architecture(nn.Module, ABC):
    """A cross-encoder: `inputs` int64 [batch, sequence] each → logits float32 [batch, 1].

    Built from config.json (a mapping); CheckpointRefused names what it asks that is not here.
    `inputs` are the graph's inputs in order; `pooling`, `temperature` and `causal` are the facts
    that the manifest records; `position_limit` is the longest row, in tokens, that the weights
    can place.
    """

    inputs: tuple[str, ...]
    pooling: str
    temperature: float
    causal: bool
    position_limit: int

    @abstractmethod
    def states(self, *inputs: Any) -> Tensor:
        """Final hidden states float32 [batch, sequence, hidden]."""

    @abstractmethod
    def halve(self) -> Self:
        """Round embeddings and the layers' linear weights to float16, in place.

        Norms, pooling, head, rotary angles and the residual stream stay float32.
        """
