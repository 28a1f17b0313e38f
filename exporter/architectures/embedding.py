"""Embedding models: a body, pooled to one vector a text, of length 1 where that is asked."""

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional

from exporter.architectures.base import Architecture, Body
from exporter.architectures.modules import Step, modules, place_in_trunk


class EmbeddingModel(Architecture):
    """`inputs` of the body → embeddings float32 [batch, dimensions]: states pooled, and the `steps`
    behind them.

    Pooling and normalisation run in float32 whatever the body's weights are. A shorter vector
    (Matryoshka) is a matter of whoever serves: the graph gives all components.
    """

    output = "embeddings"

    def __init__(
        self, body: Body, pooling: str, *, normalize: bool, steps: Sequence[Step] = ()
    ) -> None:
        super().__init__()
        self.pooling = pooling
        self.normalize = normalize
        self.dimensions = steps[-1].outputs if steps else body.hidden
        self.trunk = body
        self.steps = modules(steps)

    @property
    def body(self) -> Body:
        """See Architecture."""
        return self.trunk

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> Tensor:
        types = () if token_type_ids is None else (token_type_ids,)
        vectors = self.steps(self.trunk.pooled(self.pooling, input_ids, attention_mask, *types))
        return functional.normalize(vectors, dim=1) if self.normalize else vectors

    def place(self, name: str) -> str | None:
        """See Architecture."""
        return place_in_trunk(self.trunk, name)

    def stored_name(self, parameter: str) -> str:
        """See Architecture."""
        return parameter.removeprefix("trunk.")
