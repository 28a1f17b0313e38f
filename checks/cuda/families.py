"""The families of models, tiny and with random weights: their graphs for ONNX Runtime's CUDA
provider, inputs, and what PyTorch makes of them in float32."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from exporter import onnxruntime_cuda
from exporter.architectures.nemotron_vl import NemotronVL
from exporter.checkpoint import Checkpoint, load_model, read_checkpoint
from exporter.draft import Draft, ExportArgs, draft
from exporter.model_profile import choose_profile
from exporter.parity import new_report
from exporter.report import write_report
from exporter.seal import seal
from exporter.target_graph import write_graph
from runtime.manifest import Golden, Manifest, VectorGolden
from runtime.postprocess import InputType
from runtime.profile import Kind, TargetProfile, load_target_profile
from runtime.requests import EmbedRequest, RankRequest
from runtime.text import load_tokenizer
from runtime.vision.encoding import pair_encoder, text_encoder
from tests.tiny_checkpoints import (
    write_bert,
    write_llama,
    write_llama_embedder,
    write_sentence_transformers,
)
from tests.tiny_encoders import write_deberta, write_modernbert, write_xlm_roberta
from tests.tiny_vision import embedder_config, reranker_config, write_vision

Write = Callable[[Path], Path]

# Heads of a multiple of 8 components, as the real tower has: others get no flash attention. Two
# layers, because writing the graph takes long.
_VL = {
    "vision_config": {"hidden_size": 64, "num_hidden_layers": 2},
    "llm_config": {"num_hidden_layers": 2},
}
# An eighth of the 1B model's width, with heads of the same size: what a layer reads and writes is
# an eighth, too.
SHARE_OF_1B = 8
_EIGHTH: dict[str, Any] = {
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 64,
}


def _zoo(family: str, layout: str) -> Write:
    """A checkpoint of the zoo, which is written by the classes that users have."""

    def write(folder: Path) -> Path:
        from tests.zoo.cases import CASES  # late: it imports all of these

        (case,) = (one for one in CASES if (one.family, one.layout) == (family, layout))
        return case.build(folder)

    return write


# Every architecture, and every way to pool.
FAMILIES: Mapping[str, Write] = {
    "llama": partial(write_llama, **_EIGHTH),
    "llama-last": partial(write_llama, pooling="last"),
    "llama-embed": write_llama_embedder,
    "bert": write_bert,
    "bert-embed": write_sentence_transformers,
    "bge": partial(write_sentence_transformers, pooling="cls"),
    "xlm-roberta": partial(write_xlm_roberta, num_hidden_layers=2),
    "modernbert": write_modernbert,
    "deberta": partial(write_deberta, num_hidden_layers=2),
    "vl": lambda folder: write_vision(folder, reranker_config(**_VL)),
    "vl-embed": lambda folder: write_vision(folder, embedder_config(**_VL)),
    # Qwen3-Reranker, Qwen3-Embedding, mxbai-rerank-v2, Nemotron-3-Embed, EmbeddingGemma, ettin.
    "qwen3-judge": _zoo("Qwen3 judge", "fp32"),
    "qwen3-embed": _zoo("Qwen3 embedder", "sentence-transformers 6, last token"),
    "qwen2-judge": _zoo("Qwen2 judge", "fp32"),
    "ministral-embed": _zoo("Nemotron-3-Embed embedder", "fp32"),
    "gemma-embed": _zoo("EmbeddingGemma embedder", "fp32"),
    "ettin": _zoo("ModernBERT modular cross-encoder", "ettin"),
    # Causal Llamas, and the one that reads both ways under the causal one's name.
    "causal-llama": _zoo("Llama classifier", "fp32"),
    "llama-alias": _zoo("Llama embedder", "saved by NeMo as LlamaModel"),
    "mistral-embed": _zoo("Mistral embedder", "causal, last token"),
    "camembert": _zoo("CamemBERT cross-encoder", "fp32"),
}
TARGETS = ("cuda-fp16", "cuda-bf16")
# Off until a card has shown that they are faster.
OPT_IN = ("cuda-fp16-packed", "cuda-fp16-lean", "cuda-bf16-lean")
# What a graph is before it is made for the CUDA provider.
_AS_WRITTEN: Mapping[str, Any] = {"operators": "onnx", "lean": False, "packed": False}
# Further targets of a family: what `auto` may run on CUDA although it was exported for TensorRT,
# masks and means by cuDNN; and small calls that replay graphs.
PLAIN, REPLAYED = ("bert", "tensorrt-fp16"), ("llama", "cuda-fp16-graphs")
_QUERY, _TEXT = "what is machine learning", "Machine learning is a subset of AI"
_LENGTHS, _TOKEN_IDS, _SEED = (33, 20, 7, 1, 32), (5, 80), 0
# The tolerance of goldens: the fake computes nothing, so every finite value will do.
_ANY = 1e6
INPUTS, VALUES, PIXELS, EMBEDS = "inputs.npz", "values.npy", "pixels.npy", "embeds.npy"


@dataclass(frozen=True)
class Graph:
    """The `family`'s graph for `target`, in a finished artifact; `recorded` has inputs and the
    outputs of PyTorch."""

    family: str
    kind: Kind
    target: str
    directory: Path
    recorded: Path


def make_graphs(out: Path) -> list[Graph]:
    """Write every family's graph for each target into `out`, anew."""
    shutil.rmtree(out, ignore_errors=True)
    made = []
    for family, write in FAMILIES.items():
        checkpoint, recorded = (out / folder / family for folder in ("checkpoints", "recorded"))
        for folder in (checkpoint, recorded):
            folder.mkdir(parents=True)
        read = read_checkpoint(str(write(checkpoint)))
        profile = choose_profile(None, read.architecture, read.kind)
        further = [target for one, target in (PLAIN, REPLAYED) if one == family]
        for target in (*TARGETS, *OPT_IN, *further):
            directory, wanted = out / f"{family}-{target}", load_target_profile(target)
            found = draft(read, profile, wanted, ExportArgs(target=target))
            if target == TARGETS[0]:
                _ask_pytorch(found.checkpoint, recorded)
            directory.mkdir()
            _write_graph(found.checkpoint, wanted, out / "plain" / family, directory)
            _seal(found, wanted, directory)
            made.append(Graph(family, read.kind, target, directory, recorded))
    return made


def _write_graph(read: Checkpoint, target: TargetProfile, plain: Path, directory: Path) -> None:
    """As `write_graph`, which takes long: what targets share is written once, below `plain`."""
    shared = plain / target.weights
    if not shared.exists():
        shared.mkdir(parents=True)
        write_graph(read, msgspec.structs.replace(target, **_AS_WRITTEN), shared)
    shutil.copytree(shared, directory, dirs_exist_ok=True)
    if target.operators == "onnxruntime-cuda":
        onnxruntime_cuda.adapt(directory, lean=target.lean, packed=target.packed)


def _ask_pytorch(checkpoint: Checkpoint, folder: Path) -> None:
    """Inputs with padding on the right, and the outputs of the model in float32."""
    model = load_model(checkpoint)
    drawn = np.random.default_rng(_SEED)
    shape = len(_LENGTHS), max(_LENGTHS)
    given: dict[str, np.ndarray] = {
        "input_ids": drawn.integers(*_TOKEN_IDS, shape),
        "attention_mask": (np.arange(shape[1]) < np.asarray(_LENGTHS)[:, None]).astype(np.int64),
        "token_type_ids": np.zeros(shape, np.int64),
    }
    with torch.inference_mode():
        if isinstance(model, NemotronVL):
            pixels = drawn.standard_normal((2, 3, model.tile_size, model.tile_size))
            tiles = torch.from_numpy(pixels.astype(np.float32))
            embeds = model.tower(tiles).numpy()
            np.save(folder / PIXELS, tiles.numpy())
            np.save(folder / EMBEDS, embeds)
            index = np.zeros(shape, np.int64)
            index[0, 1 : 1 + embeds.shape[1]] = 1 + np.arange(embeds.shape[1])
            given |= {"image_index": index, "image_embeds": embeds}
        given = {name: given[name] for name in model.inputs}
        values = model.eval()(*map(torch.from_numpy, given.values())).numpy()
    np.savez(folder / INPUTS, allow_pickle=False, **given)
    np.save(folder / VALUES, values)


def _seal(found: Draft, target: TargetProfile, directory: Path) -> None:
    """Make a finished artifact of the graph, with a golden that any finite value agrees with."""
    found.tokenizer.save(directory / "tokenizer")
    write_report(directory, new_report(target.engine, target, "none", random_weights=True))
    seal(directory, msgspec.structs.replace(found.manifest, **_goldens(found.manifest, directory)))


def _goldens(manifest: Manifest, directory: Path) -> dict[str, Any]:
    tokenizer = load_tokenizer(directory / "tokenizer" / "tokenizer.json")
    most = manifest.max_tokens
    if manifest.kind == "rank":
        pair = RankRequest(_QUERY, [_TEXT])
        (row,) = pair_encoder(manifest, tokenizer, most).encode(pair).rows
        ids = [int(one) for one in row.token_ids]
        rank = Golden(query=_QUERY, passage=_TEXT, token_ids=ids, logit=0.0)
        return {"goldens": [rank], "golden_tolerance": _ANY}
    kind: InputType | None = "passage" if manifest.prefixes else None
    (row,) = text_encoder(manifest, tokenizer, most).encode(EmbedRequest([_TEXT], kind)).rows
    ids = [int(one) for one in row.token_ids]
    vector = [0.0] * (manifest.dimensions or 0)
    embed = VectorGolden(text=_TEXT, input_type=kind, token_ids=ids, vector=vector)
    return {"vector_goldens": [embed], "golden_tolerance": _ANY}
