"""The candidates: PyTorch as commonly used, and our engines behind our own batching."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch

from checks.gpu.models import CONFIGS, PRECISIONS, Exported, make_model
from recipe.training.llama_bidirec import (
    LlamaBidirectionalConfig,
    LlamaBidirectionalForSequenceClassification,
)
from runtime.batch import BatchLimits, assemble
from runtime.engines import Arrays, EngineSetup, open_engine
from runtime.errors import ServingError
from runtime.scheduling.admission import QueueLimits
from runtime.scheduling.scheduler import Scheduler
from runtime.shapes import ShapeRange
from runtime.text import Encoding

Score = Callable[[Sequence[Encoding]], np.ndarray]

FLASH = "flash_attention_2"
# As in the targets.
MAX_ROWS = 64
_WASTE = 0.25
# One profile for all loads; a target for mixed lengths would have several.
_PROFILES = (ShapeRange((1, 16, MAX_ROWS), (3, 256, 512)),)


@dataclass(frozen=True)
class Candidate:
    """`opened` is a context with the function that scores rows. It raises EngineUnavailable where
    the machine lacks something."""

    name: str
    precision: str
    ours: bool
    opened: Callable[[], Any]


def pytorch(model: str, dtype: torch.dtype, batch: int, device: str) -> Candidate:
    """transformers with flash attention or sdpa, batches of `batch` rows sorted by length, padded
    to their longest."""

    @contextmanager
    def opened() -> Iterator[Score]:
        network = _network(model, dtype, device)

        def score(rows: Sequence[Encoding]) -> np.ndarray:
            order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
            found = np.empty(len(rows), np.float32)
            with torch.inference_mode():
                parts = [order[i : i + batch] for i in range(0, len(order), batch)]
                logits = [network(**_tensors([rows[i] for i in p], device)).logits for p in parts]
                for part, values in zip(parts, logits, strict=True):
                    found[part] = values[:, 0].float().cpu().numpy()
            return found

        yield score

    precision = PRECISIONS[str(dtype).removeprefix("torch.")]
    name = f"PyTorch {precision} {usual_attention(device, dtype)}, {batch} rows"
    return Candidate(name, precision, ours=False, opened=opened)


def ours(
    engine: str,
    title: str,
    exported: Exported,
    budget: int,
    graph_tokens: int = 0,
    ahead: int = 0,
) -> Candidate:
    """An engine behind the serving scheduler, with calls of at most `budget` tokens, of which
    `ahead` full ones are prepared while another runs."""

    @contextmanager
    def opened() -> Iterator[Score]:
        setup = EngineSetup(
            precision=exported.precision,
            max_rows=MAX_ROWS,
            shapes=_PROFILES,
            padding_waste=_WASTE,
            graph_tokens=graph_tokens,
            cache=exported.directory,
        )
        with closing(open_engine(engine, exported.directory, setup)) as running:

            def prepare(rows: Sequence[Encoding]) -> tuple[Arrays, int]:
                shape = running.shape_for(len(rows), max(map(len, rows)))
                return assemble(rows, running.input_names, 0, "right", shape), len(rows)

            def compute(call: tuple[Arrays, int]) -> np.ndarray:
                inputs, rows = call
                found = running.run(inputs)[running.output_names[0]]
                return found.reshape(-1)[:rows].astype(np.float32)

            limits = BatchLimits(MAX_ROWS, budget, _WASTE, running.shapes)
            queue = QueueLimits(rows=1 << 16, tokens=1 << 25)
            scheduler = Scheduler(compute, limits, queue, prepare=prepare, ahead=ahead)
            with closing(scheduler):
                yield lambda rows: scheduler.submit(rows, None).result().outputs

    graphs = f", graphs to {graph_tokens}" if graph_tokens else ""
    name = f"{title}, {budget} tokens{graphs}{', a call ahead' if ahead else ''}"
    return Candidate(name, exported.precision, ours=True, opened=opened)


def wanted_logits(model: str, rows: Sequence[Encoding], device: str) -> np.ndarray:
    """PyTorch in float32, one unpadded row a call."""
    with pytorch(model, torch.float32, 1, device).opened() as score:
        found: np.ndarray = score(rows)
    return found


def usual_attention(device: str, dtype: torch.dtype) -> str:
    """Flash attention in half precision on a GPU where its package is installed, else sdpa."""
    half = dtype in (torch.float16, torch.bfloat16)
    return FLASH if device.startswith("cuda") and half and find_spec("flash_attn") else "sdpa"


def failure_of(error: Exception) -> str:
    """One line for the report."""
    known = isinstance(error, ServingError)
    text = str(error) if known else f"{type(error).__name__}: {error}"
    return " ".join(text.split())[:300]


def _network(model: str, dtype: torch.dtype, device: str) -> torch.nn.Module:
    """The same weights as the exported graphs', in transformers' own modelling code."""
    config = LlamaBidirectionalConfig(**CONFIGS[model])
    config._attn_implementation = usual_attention(device, dtype)
    with torch.device("meta"):
        network = LlamaBidirectionalForSequenceClassification(config)
    network.load_state_dict(_weights(model), assign=True)
    rotary = network.model.rotary_emb
    network.model.rotary_emb = type(rotary)(config=config)
    network = network.to(device)
    # Buffers, such as the frequencies of the rotary embedding, stay in float32.
    for parameter in network.parameters():
        parameter.data = parameter.data.to(dtype)
    return network.eval()


@cache
def _weights(model: str) -> dict[str, torch.Tensor]:
    """Drawn once: for the 1B shape, drawing takes longer than measuring."""
    return make_model(model).state_dict()


def _tensors(rows: Sequence[Encoding], device: str) -> dict[str, torch.Tensor]:
    arrays = assemble(rows, ("input_ids", "attention_mask"), 0, "right")
    return {
        name: torch.from_numpy(np.ascontiguousarray(array)).to(device, non_blocking=True)
        for name, array in arrays.items()
    }
