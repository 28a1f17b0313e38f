"""Captured CUDA graphs of a session: launching hundreds of small kernels takes longer than running
them, replaying their graph is one launch."""

import itertools
import threading
from typing import Any, NamedTuple

import numpy as np

from runtime.engines import Arrays, EngineSetup, Outputs
from runtime.shapes import PLACES_INPUT, Shape, bucket

# Run option: the id of the captured graph to replay; -1 means none.
_GRAPH_ID, _NO_GRAPH = "gpu_graph_id", "-1"
# So many tokens take a card no longer than fewer do: up to here padding costs nothing.
_FREE_TOKENS = 256
TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int64)": np.int64}


class CapturedGraphs:
    """The graphs of small calls, which are padded to a few shapes: those of `runtime.shapes.bucket`
    with at most `setup.graph_tokens` tokens, 106 of them for 2048 tokens and 64 rows. A larger call
    of which more than `setup.padding_waste` would be padding is not padded, and replays none.

    ONNX Runtime 1.31 gives none back before the session ends, so these few bound their memory. Each
    has its own inputs and outputs on the device; intermediate values share the session's arena.
    One call at a time. A thread replays only what it captured: ONNX Runtime keeps them by thread.
    """

    def __init__(self, session: Any, ort: Any, setup: EngineSetup, memory: str) -> None:
        self._session = session
        self._ort = ort
        self._setup = setup
        self._memory = memory
        self._tokens = setup.graph_tokens if _can_capture(session) else 0
        self._of_thread = _OfThread()
        self._failed: set[Shape] = set()
        # An id is never used twice: a failed capture may have left a graph behind under its id.
        self._numbers = itertools.count(1)

    def shape_for(self, rows: int, tokens: int) -> Shape | None:
        """The shape whose graph computes a call of this shape; None without one."""
        shape = bucket(rows, tokens, self._setup.max_rows)
        computed = shape[0] * shape[1]
        wasted = computed - rows * tokens
        is_cheap = computed <= _FREE_TOKENS or wasted <= self._setup.padding_waste * computed
        return shape if is_cheap and self._fits(shape) else None

    def shape_of(self, inputs: Arrays) -> Shape | None:
        """The shape whose graph computes exactly these inputs; None without one."""
        shape = _shape_of(inputs)
        return shape if shape is not None and self.shape_for(*shape) == shape else None

    def has(self, shape: Shape) -> bool:
        """Whether this shape's graph is captured already."""
        return shape in self._of_thread.captured

    def give_up(self, shape: Shape) -> None:
        """This shape cannot be captured: its calls run without a graph from now on."""
        self._failed.add(shape)

    def run(self, shape: Shape, inputs: Arrays) -> Outputs:
        """Replay the graph of `shape`; ONNX Runtime captures it in the first call."""
        inputs = _with_every_place(inputs, shape)
        captured = self._of_thread.captured.get(shape) or self._buffers(shape, inputs)
        for name, held in captured.inputs.items():
            held.update_inplace(np.ascontiguousarray(inputs[name]))
        self._session.run_with_iobinding(captured.binding, captured.options)
        self._of_thread.captured[shape] = captured
        return {name: value.numpy() for name, value in captured.outputs.items()}

    def plain_options(self) -> Any:
        """Run options of a call that captures and replays nothing."""
        return self._options(_NO_GRAPH) if self._setup.graph_tokens else None

    def close(self) -> None:
        """Drop the buffers and the session; its graphs are freed with it."""
        self._of_thread = _OfThread()
        self._session = None

    def _fits(self, shape: Shape) -> bool:
        rows, tokens = shape
        return (
            rows * tokens <= self._tokens
            and tokens <= self._setup.max_tokens
            and shape not in self._failed
        )

    def _buffers(self, shape: Shape, inputs: Arrays) -> "_Captured":
        value = self._ort.OrtValue
        binding = self._session.io_binding()
        held = {
            one.name: value.ortvalue_from_numpy(
                np.ascontiguousarray(inputs[one.name]), self._memory, 0
            )
            for one in self._session.get_inputs()
        }
        given = {
            one.name: value.ortvalue_from_shape_and_type(
                [shape[0], *one.shape[1:]], TYPES[one.type], self._memory, 0
            )
            for one in self._session.get_outputs()
        }
        for name, one in held.items():
            binding.bind_ortvalue_input(name, one)
        for name, one in given.items():
            binding.bind_ortvalue_output(name, one)
        return _Captured(binding, self._options(str(next(self._numbers))), held, given)

    def _options(self, graph: str) -> Any:
        options = self._ort.RunOptions()
        options.add_run_config_entry(_GRAPH_ID, graph)
        return options


class _Captured(NamedTuple):
    """A captured CUDA graph: its binding, run options, and input and output buffers."""

    binding: Any
    options: Any
    inputs: dict[str, Any]
    outputs: dict[str, Any]


class _OfThread(threading.local):
    """The graphs that a thread has captured, by their shape."""

    def __init__(self) -> None:
        self.captured: dict[Shape, _Captured] = {}


def _can_capture(session: Any) -> bool:
    """Whether the outputs' sizes are known before a call, because a CUDA graph has fixed addresses,
    and calls have the shapes of captured ones: no input has one axis, but the places of packed
    graphs. That of the dimensions of NVIDIA's embedders has."""
    return all(
        one.type in TYPES and all(isinstance(size, int) for size in one.shape[1:])
        for one in session.get_outputs()
    ) and all(len(one.shape) > 1 or one.name == PLACES_INPUT for one in session.get_inputs())


def _shape_of(inputs: Arrays) -> Shape | None:
    """(rows, tokens) if all inputs have this shape but the places of packed graphs and those that
    are empty, as the embeddings of images are for texts alone; else None."""
    match list({a.shape for name, a in inputs.items() if a.size and name != PLACES_INPUT}):
        case [(rows, tokens)]:
            return rows, tokens
    return None


def _with_every_place(inputs: Arrays, shape: Shape) -> Arrays:
    """Inputs of a packed graph that compute padding too: a captured graph has one number of
    tokens."""
    if PLACES_INPUT not in inputs:
        return inputs
    rows, tokens = shape
    return {**inputs, PLACES_INPUT: np.arange(rows * tokens)}
