"""sentence-transformers' modules behind the pooling, and the cross-encoder that ends in them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from exporter.architectures.base import Architecture, Body

_EPSILON = 1e-5  # torch's default, which the module has
# Classes of torch by their last names, made without arguments.
ACTIVATIONS: Mapping[str, type[nn.Module]] = {
    kind.__name__: kind for kind in (nn.GELU, nn.Identity, nn.ReLU, nn.Sigmoid, nn.SiLU, nn.Tanh)
}


@dataclass(frozen=True)
class Step:
    """A module: `inputs` and `outputs` are the sizes of its vectors; a Dense has a `bias` and an
    `activation`, a name in ACTIVATIONS."""

    kind: Literal["Dense", "LayerNorm"]
    inputs: int
    outputs: int
    bias: bool = False
    activation: str = "Identity"


class Dense(nn.Module):
    """A linear layer and its activation."""

    def __init__(self, step: Step) -> None:
        super().__init__()
        self.linear = nn.Linear(step.inputs, step.outputs, bias=step.bias)
        self.activation = ACTIVATIONS[step.activation]()

    def forward(self, vectors: Tensor) -> Tensor:
        return self.activation(self.linear(vectors))


class Norm(nn.Module):
    """A LayerNorm, by the name of its weights."""

    def __init__(self, step: Step) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(step.inputs, eps=_EPSILON)

    def forward(self, vectors: Tensor) -> Tensor:
        return self.norm(vectors)


def modules(steps: Sequence[Step]) -> nn.Sequential:
    """float32 [batch, inputs] → [batch, outputs]; nothing for no steps. Their tensors are named by
    their numbers."""
    return nn.Sequential(*(Dense(s) if s.kind == "Dense" else Norm(s) for s in steps))


class ModularCrossEncoder(Architecture):
    """`inputs` of the body → logits float32 [batch, 1]: its states pooled, and the modules behind
    them, which are float32 whatever the body's weights are."""

    def __init__(self, body: Body, pooling: str, steps: Sequence[Step]) -> None:
        super().__init__()
        self.pooling = pooling
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
        return self.steps(self.trunk.pooled(self.pooling, input_ids, attention_mask, *types))

    def place(self, name: str) -> str | None:
        """See Architecture."""
        return place_in_trunk(self.trunk, name)

    def stored_name(self, parameter: str) -> str:
        """See Architecture."""
        return parameter.removeprefix("trunk.")


def place_in_trunk(body: Body, name: str) -> str | None:
    """The parameter of a model with a `body` as its trunk that the tensor `name` is for: those of
    steps keep their names, the body's are saved with its prefix or without it."""
    if name.startswith("steps."):
        return name
    inner = name.removeprefix(body.prefix)
    return None if inner.startswith(body.unused) else f"trunk.{inner}"
