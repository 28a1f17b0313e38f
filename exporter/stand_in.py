"""Stand-ins for a witness, which read texts as the manifest says: the exporter's own PyTorch model
and a proven artifact."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from exporter.answers import Tokens
from exporter.architectures.base import Architecture
from exporter.tokens import CheckpointTokenizer
from exporter.witness.base import RankWitness, Values, VectorWitness, Witness, row_of
from runtime.engines import open_engine
from runtime.manifest import NOT_WITNESSED, Manifest, is_witnessed
from runtime.postprocess import InputType
from runtime.text import Encoding
from runtime.vision.encoding import without_placeholder
from runtime.vision.layout import image_inputs

# The output of one row, float [components], of its inputs int64 [1, tokens] by name.
_Compute = Callable[[dict[str, torch.Tensor]], npt.NDArray[np.floating]]


@dataclass
class _StandIn:
    """Texts by the checkpoint's tokenizer and the manifest's prefixes, outputs by `compute`. `sees`
    says whether the model takes images, of which these texts have none."""

    name: str
    compute: _Compute
    tokenizer: CheckpointTokenizer
    prefixes: dict[str, str]
    sees: bool

    def values(self, tokens: Tokens) -> Values:
        """See Witness."""
        return np.asarray(self.compute(row_of(tokens)), np.float64)


class _RankStandIn(_StandIn, RankWitness):
    def score(self, query: str, passage: str) -> tuple[Tokens, Values]:
        """See RankWitness."""
        if self.sees:
            query, passage = without_placeholder(query, passage)
        tokens, _ = self.tokenizer.encode(query, passage)
        return tokens, self.values(tokens)


class _VectorStandIn(_StandIn, VectorWitness):
    def embed(self, text: str, input_type: InputType | None) -> tuple[Tokens, Values]:
        """See VectorWitness."""
        tokens, _ = self.tokenizer.encode_text(self.prefixes.get(input_type or "", "") + text)
        return tokens, self.values(tokens)


def own_reading(
    model: Architecture, tokenizer: CheckpointTokenizer, manifest: Manifest, why: str
) -> Witness:
    """The exporter's own model: for folders that no loader here can load, and to diagnose a
    difference between graph and witness. `why` says the reason."""

    @torch.inference_mode()
    def compute(row: dict[str, torch.Tensor]) -> npt.NDArray[np.floating]:
        row = row | model.blank_inputs(row["input_ids"])
        return np.asarray(model(*(row[name] for name in model.inputs))[0].numpy())

    kind = _RankStandIn if manifest.kind == "rank" else _VectorStandIn
    name, sees = f"{NOT_WITNESSED}: {why}", manifest.vision is not None
    return kind(name, compute, tokenizer, manifest.prefixes, sees)


@contextmanager
def artifact_reading(
    directory: Path, engine_name: str, manifest: Manifest, tokenizer: CheckpointTokenizer
) -> Iterator[Witness]:
    """The artifact in `directory` on this engine, and its tokenizer as transformers reads it.
    Raises EngineError."""
    made_of = f"the {manifest.precision} artifact {manifest.version}"
    name = (
        f"{made_of}, whose witness is {manifest.witness}"
        if is_witnessed(manifest)
        else f"{NOT_WITNESSED}: made of {made_of}, which is not"
    )
    kind = _RankStandIn if manifest.kind == "rank" else _VectorStandIn
    with closing(open_engine(engine_name, directory)) as engine:

        def compute(row: dict[str, torch.Tensor]) -> npt.NDArray[np.floating]:
            inputs: dict[str, npt.NDArray[np.generic]] = {
                name: row[name].numpy() for name in manifest.inputs if name in row
            }
            if manifest.vision is not None:
                ids = row["input_ids"].numpy()
                text, shape = Encoding(ids[0], None), (1, ids.shape[1])
                inputs |= image_inputs([text], manifest.padding_side, shape, manifest.vision)
            return np.asarray(engine.run(inputs)[manifest.outputs[0]][0])

        yield kind(name, compute, tokenizer, manifest.prefixes, manifest.vision is not None)
