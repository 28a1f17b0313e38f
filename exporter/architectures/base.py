"""What every architecture offers the exporter: a body that reads, and a head that answers."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self

import torch
from torch import Tensor, nn

from exporter.architectures.config import Config
from exporter.architectures.pooling import Chosen, pool
from exporter.weights import Stored

# Prefixes of heads of pretraining, which remain in files beside a body or another head and are not
# read here.
PRETRAINING_HEADS = tuple(
    """
    lm_head. cls.predictions. cls.seq_relationship. lm_predictions. mask_predictions.
    discriminator_predictions. generator_predictions. generator_lm_head.
    """.split()
)


@dataclass(frozen=True)
class Size:
    """The `value` of `what` in config.json, which is the length of one axis of a matrix; `advice`
    for a mismatch."""

    what: str
    value: int
    parameter: str
    axis: int = 0
    advice: str = "export the checkpoint as it was saved after training"


class Part(Protocol):
    """A class of modules with numbered layers, whose sizes in config.json are compared with the
    weights: `prefix` and `layer_prefix` are as in Body."""

    prefix: str
    layer_prefix: str

    @classmethod
    def sizes(cls, config: Config) -> Iterator[Size]:
        """The sizes of weights in config.json, except the number of layers. Nothing may be
        allocated before they match the weights. Raises CheckpointRefused for an invalid size."""


class Body(nn.Module):
    """An encoder without a head: `inputs` int64 [batch, sequence] each → final hidden states.

    Built from config.json (a mapping); CheckpointRefused names settings that are not implemented.
    `inputs` are the graph's inputs in order, `input_ids` and `attention_mask` first; `hidden` is
    the size of a state; `causal` is true if a token sees only those before it; `position_limit` is
    the longest row, in tokens, that the weights have positions for; `types` is the number of token
    types.

    `forward` gives float32 [batch, sequence, hidden]; of the token `chosen`, if that is given,
    alone [batch, 1, hidden].

    `prefix` is what checkpoints with a head put before this body's parameter names; behind it,
    `layer_prefix` comes before the number of a layer, `words` is the table of words, `widening` a
    matrix with intermediate_size on the axis `widening_axis`, and `unused` are prefixes of names of
    weights that checkpoints without a head have and no state depends on. `heads` are
    PRETRAINING_HEADS of this family alone. `pools` is true for families whose config.json names the
    pooling of their embedders, which always normalise; elsewhere the sentence-transformers files
    beside it say both. With `narrow` the last layer computes the pooled token alone, where pooling
    takes one.
    """

    inputs: tuple[str, ...]
    hidden: int
    causal: bool
    position_limit: int
    prefix: str
    layer_prefix: str
    words: str
    widening: str
    widening_axis: int = 0
    types: int = 0
    unused: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()
    pools: bool = False
    narrow: bool = False
    forward: Callable[..., Tensor]

    @classmethod
    def sizes(cls, config: Config) -> Iterator[Size]:
        """See Part; here those that every family has."""
        yield Size("vocab_size", config.whole("vocab_size"), cls.words)
        yield Size("hidden_size", config.whole("hidden_size"), cls.words, axis=1)
        inner = config.whole("intermediate_size")
        yield Size("intermediate_size", inner, cls.widening, cls.widening_axis)

    @classmethod
    def stored(cls, weights: Mapping[str, Stored]) -> Mapping[str, Stored]:
        """A checkpoint's `weights` by name as they are computed with: mostly as they are saved."""
        return weights

    def pooled(self, pooling: str, *inputs: Any) -> Tensor:
        """The states of a row as one vector, float32 [batch, hidden]; see `pool`."""
        if self.narrow and pooling != "avg":
            chosen = Chosen.by(inputs[1], pooling, causal=self.causal)
            return self(*inputs, chosen=chosen).squeeze(1)
        return pool(self(*inputs), inputs[1], pooling)

    def halve(self, dtype: torch.dtype) -> None:
        """Round embeddings of words and the layers' linear weights to float16 or bfloat16, in
        place.

        Norms, rotary angles and the residual stream stay float32.
        """
        self.get_submodule(self.words.removesuffix(".weight")).to(dtype)
        halve_products(self.get_submodule(self.layer_prefix.removesuffix(".")), dtype)


def halve_products(module: nn.Module, dtype: torch.dtype) -> None:
    """Round the linear and convolutional weights in `module` to `dtype`, in place."""
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Conv2d):
            part.to(dtype)


class Architecture(nn.Module, ABC):
    """A body with its head: `inputs` int64 [batch, sequence] each → `output` float32.

    Cross-encoders give `logits` [batch, 1], embedding models `embeddings` [batch, dimensions].
    `pooling`, `temperature` and `normalize` are facts that the manifest records; `dimensions` is
    None if the output is a logit. `templated` is true for cross-encoders that read query and
    passage as one text; for the others the tokenizer joins the pair.
    """

    output: str = "logits"
    templated: bool = False
    pooling: str
    temperature: float = 1.0
    normalize: bool = False
    dimensions: int | None = None

    @property
    @abstractmethod
    def body(self) -> Body:
        """What turns tokens into states; its parameters are named as in the checkpoints."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """The graph's inputs, in order."""
        return self.body.inputs

    @property
    def causal(self) -> bool:
        """Whether a token sees only those before it."""
        return self.body.causal

    @property
    def position_limit(self) -> int:
        """The longest row, in tokens, that the weights have positions for."""
        return self.body.position_limit

    def blank_inputs(self, input_ids: Tensor) -> dict[str, Tensor]:  # noqa: ARG002
        """What a row of text alone is fed beside its tokens; nothing for a model of texts."""
        return {}

    def states(self, *inputs: Any) -> Tensor:
        """Final hidden states float32 [batch, sequence, hidden]."""
        return self.body(*inputs)

    def halve(self, dtype: torch.dtype) -> Self:
        """Round the body to `dtype`, in place; pooling and head stay float32."""
        self.body.halve(dtype)
        return self

    def is_left_out(self, name: str) -> bool:
        """Whether the checkpoint's tensor `name` belongs to a head of pretraining, which this model
        lacks."""
        heads = (*PRETRAINING_HEADS, *self.body.heads)
        return name.startswith(heads) and name.partition(".")[0] not in dict(self.named_children())

    def place(self, name: str) -> str | None:
        """The parameter that the checkpoint's tensor `name` is for; None for one not needed."""
        return name

    def stored_name(self, parameter: str) -> str:
        """What checkpoints call the `parameter`, for messages."""
        return parameter


class CrossEncoder(Architecture):
    """A body with a head that gives one logit a row, built from config.json as a Body is.

    `trunk` is the body's class, `logit` the parameter that has a row for each label. A language
    model that `judges` is saved with a head for all words (`exporter.judge_head`).
    """

    trunk: ClassVar[type[Body]]
    logit: ClassVar[str]
    judges: ClassVar[bool] = False

    @property
    def body(self) -> Body:
        """See Architecture; its name is that of the checkpoints."""
        body = self.get_submodule(self.trunk.prefix.removesuffix("."))
        assert isinstance(body, Body)
        return body
