"""Read a Hugging Face checkpoint, and refuse what cannot be exported faithfully.

A checkpoint is a directory, or a hub id that is downloaded first. Only JSON, safetensors and
tokenizer files are read; no code of the checkpoint ever runs.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import msgspec
import torch

from exporter.adapter import ADAPTER_CONFIG, ADAPTER_WEIGHTS, Adapter
from exporter.adapter_head import adapted_config, without_head
from exporter.architectures import BODIES, CROSS_ENCODERS, VISION
from exporter.architectures.base import Architecture, CrossEncoder, Size
from exporter.architectures.config import Config, shown, unlike_base
from exporter.architectures.embedding import EmbeddingModel
from exporter.architectures.modules import ModularCrossEncoder
from exporter.embedding_files import ARCHITECTURE, VectorFacts, vector_facts
from exporter.errors import AttentionMismatch, CheckpointRefused
from exporter.folders import Folders, find_folders
from exporter.labels import OF_TWO_LOGITS, ONE_LABEL, Labels, merge_labels, read_labels
from exporter.merging import full_tensors, merged
from exporter.modules import Tail
from exporter.nested import nested_checkpoints
from exporter.options import POOLING_OPTION
from exporter.progress import print_line
from exporter.sentence_files import (
    MODULES_FILE,
    TextFacts,
    Use,
    is_cross_encoder,
    model_settings,
    text_facts,
)
from exporter.sizes import check_sizes
from exporter.tokenizer_files import check_tokenizer
from exporter.unread_settings import refuse_processor, refuse_rank_modules, score_modules
from exporter.vision_files import VisionFacts, read_vision
from exporter.vision_weights import check_vision_sizes, plain_vision_names
from exporter.weight_names import plain_names
from exporter.weights import Stored, first, stored_tensors
from runtime.activation import CONFIG_FILE as CONFIG_FILE
from runtime.activation import ONE_LOGIT, saved_activation
from runtime.manifest import hash_file
from runtime.model_files import JSON_BYTES, read_bounded
from runtime.postprocess import Activation
from runtime.profile import Kind

_VISION_RANKERS = [name for name, kind in VISION.items() if issubclass(kind, CrossEncoder)]
VISION_TYPES = ("llama_nemotron_vl_rerank", "llama_nemotron_vl")
VISION_LOGIT = "score.weight"
# The head of a language model, and the key of config.json by which it is the table of words.
LM_HEAD, TIED = "lm_head.weight", "tie_word_embeddings"
_OTHERS = "others cannot be exported"
# What an architecture raises for values of config.json that it does not check itself.
_OF_ANY_VALUE = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
_PROBE_TOKENS = 8
# A hidden state that moves by less than this share of its size has not moved.
_PROBE_SHARE = 1e-5


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A readable, exportable checkpoint.

    `source` is what the user named, `root` its folder; `directory` holds the tokenizer and `base`
    the weights, which are other folders only if an `adapter` is merged into them (see Folders).
    `config` is config.json, whose sizes match the `weights` by name. `texts` says how texts become
    tokens, `vectors` how an embedder makes vectors (None for a reranker). `activation` maps a
    reranker's logit to a relevance (None for an embedder); `labels` are the classes behind that
    logit. The `tail` are sentence-transformers' modules behind the Transformer, if there are any.
    `vision` is what the files say of images (None for a text model). `random_weights` is
    true for seeded checkpoints of tests and measurements: their config.json has
    `"random_weights": true`, and parity applies another rule to them.
    """

    source: str
    root: Path
    directory: Path
    config: Config
    architecture: str
    weights: Mapping[str, Stored]
    random_weights: bool
    texts: TextFacts
    vectors: VectorFacts | None = None
    activation: Activation | None = None
    base: Path
    adapter: Adapter | None = None
    labels: Labels = ONE_LABEL
    vision: VisionFacts | None = None
    tail: Tail | None = None

    @property
    def kind(self) -> Kind:
        """Whether this is a reranker or an embedder."""
        return "rank" if self.vectors is None else "embed"

    @cached_property
    def merged(self) -> dict[str, str]:
        """The sha256 of every merged file by its name under base/ or adapter/; empty without an
        adapter. Raises OSError."""
        if self.adapter is None:
            return {}
        own = [self.adapter.directory / name for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS)]
        others = {stored.file for stored in self.weights.values()} - {*own}
        files = {f"base/{path.name}": path for path in others}
        files |= {f"adapter/{path.name}": path for path in own}
        return {name: hash_file(path) for name, path in sorted(files.items())}


def read_checkpoint(
    source: str, adapter: str | None = None, *, strict: bool = False, pooling: str | None = None
) -> Checkpoint:
    """Find `source` and read its facts; refuse what cannot be exported faithfully.

    The `adapter` is merged into its weights; an adapter alone may name its base itself. Only names
    and shapes of weights are read: the sizes in config.json and the tokenizer are compared with
    them before anything is allocated. An unknown file is logged, or refused if `strict`. `pooling`
    is an embedder's pooling if no file names one.
    """
    folders = find_folders(source, adapter, strict=strict)
    root, directory, own = folders.root, folders.texts, folders.adapter
    config = _read_config(folders.base)
    as_saved = config.get("architectures")
    if own is not None:
        embeds = pooling is not None or (root / MODULES_FILE).is_file()
        config = adapted_config(config, own, embeds=embeds)
    architecture = _known_architecture(config)
    checkpoint = partial(
        Checkpoint,
        source=source,
        root=root,
        directory=directory,
        architecture=architecture,
        random_weights=bool(config.get("random_weights", False)),
        base=folders.base,
        adapter=own,
    )
    if architecture in VISION:
        _refuse_wishes(architecture, own, pooling)
        return _read_vision(checkpoint, folders, config, architecture, strict=strict)
    refuse_processor(root, directory)
    ranks = CROSS_ENCODERS.get(architecture)
    body = BODIES[architecture] if ranks is None else ranks.trunk
    vectors, activation, labels, tail = None, None, ONE_LABEL, None
    if ranks is None and is_cross_encoder(root):
        _refuse_pooling(architecture, pooling)
        tail = score_modules(root, config)
        activation = _activation(root, config, labels)
    elif ranks is None:
        vectors = vector_facts(root, config, family_pools=body.pools, requested=pooling)
        tail = vectors.tail
    else:
        _refuse_pooling(architecture, pooling)
        labels = ONE_LABEL if ranks.judges else read_labels(config)
        refuse_rank_modules(root, judges=ranks.judges)
        activation = _activation(root, config, labels)
    templated = ranks is not None and ranks.templated
    use: Use = "embed" if ranks is None else "judge" if ranks.judges else "rank"
    texts = text_facts(root, directory, use, templated=templated)
    weights = plain_names(stored_tensors(folders.base))
    if own is not None:
        added: Collection[str] = ()
        if as_saved != config["architectures"]:  # the base was saved for another task
            weights = without_head(weights, body)
            added = () if ranks is None else full_tensors(own)
        weights = merged(weights, own, body, added)
    head = [] if ranks is None else _head_sizes(ranks, config, labels)
    check_sizes(body, head, config, weights)
    if ranks is not None and labels.count == 2:
        print_line(labels.message)
        weights = merge_labels(weights, ranks.logit)
    check_tokenizer(directory, config.whole("vocab_size"))
    behind = {} if tail is None else tail.weights
    return checkpoint(
        config=config,
        weights={**body.stored(weights), **behind},
        texts=texts,
        vectors=vectors,
        activation=activation,
        labels=labels,
        tail=tail,
    )


def _head_sizes(ranks: type[CrossEncoder], config: Config, labels: Labels) -> list[Size]:
    """The sizes of a reranker's head. That of a language model is as large as its vocabulary, or
    none if it is the table of words (tie_word_embeddings)."""
    if not ranks.judges:
        return [labels.size(ranks.logit)]
    if config.flag(TIED, False):
        return []
    return [Size("vocab_size", config.whole("vocab_size"), LM_HEAD)]


def _refuse_wishes(architecture: str, adapter: Adapter | None, pooling: str | None) -> None:
    if adapter is not None or pooling is not None:
        found = "an adapter" if adapter is not None else POOLING_OPTION
        raise CheckpointRefused(
            f"found {found}, but {architecture} takes images, and is exported as it was saved; "
            "leave it out, or merge the adapter first (merge_and_unload)"
        )


def _read_vision(
    checkpoint: Callable[..., Checkpoint],
    folders: Folders,
    config: Config,
    architecture: str,
    *,
    strict: bool,
) -> Checkpoint:
    """The `checkpoint` of a model that takes images."""
    ranks = architecture in _VISION_RANKERS
    labels = read_labels(config) if ranks else ONE_LABEL
    if labels.count != 1:
        raise CheckpointRefused(
            f"{CONFIG_FILE} has {labels.count} labels, wanted one; name as many in id2label as the "
            "head has rows: its own code takes two where there are none"
        )
    root, directory = folders.root, folders.texts
    config, facts = read_vision(config, root, directory, ranks=ranks, strict=strict)
    weights = plain_vision_names(plain_names(stored_tensors(folders.base)))
    check_vision_sizes(config, [labels.size(VISION_LOGIT)] if ranks else [], weights)
    check_tokenizer(directory, config["vocab_size"])
    pooled_by = f"{CONFIG_FILE} (pooling)"
    vectors = VectorFacts("avg", False, facts.prefixes, pooled_by, ARCHITECTURE)
    return checkpoint(
        config=config,
        weights=weights,
        texts=facts.texts,
        vectors=None if ranks else vectors,
        activation=_activation(root, config, labels) if ranks else None,
        labels=labels,
        vision=facts,
    )


def _read_config(directory: Path) -> Config:
    path = directory / CONFIG_FILE
    try:
        return Config(msgspec.json.decode(read_bounded(path, JSON_BYTES), type=dict[str, Any]))
    except FileNotFoundError:
        where = nested_checkpoints(directory) or "name the directory that save_pretrained wrote"
        raise CheckpointRefused(
            f"found no {CONFIG_FILE} in {directory}, wanted a Hugging Face checkpoint; {where}"
        ) from None
    except OSError as error:
        raise CheckpointRefused(
            f"cannot read {path}: {error.strerror}; copy or download the checkpoint again"
        ) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CheckpointRefused(
            f"{path} is not readable JSON ({error}), wanted an object; copy or download it again"
        ) from error


def _refuse_pooling(architecture: str, pooling: str | None) -> None:
    if pooling is not None:
        raise CheckpointRefused(
            f"found {POOLING_OPTION} {pooling}, but {architecture} is a reranker, whose pooling "
            "its architecture and config.json decide; leave it out"
        )


def _activation(root: Path, config: Config, labels: Labels) -> Activation:
    """The activation that the checkpoint was saved with, by default the sigmoid.

    For one label that is the default of sentence-transformers. For the difference of two logits the
    sigmoid equals their softmax."""
    known = ONE_LOGIT if labels.count == 1 else OF_TWO_LOGITS
    try:
        found = saved_activation(config, model_settings(root) or {}, known)
    except ValueError as error:
        raise CheckpointRefused(str(error)) from None
    return "sigmoid" if found is None else found[0]


def outline(checkpoint: Checkpoint) -> Architecture:
    """The checkpoint's model on the meta device, built from config.json alone.

    Raises CheckpointRefused.
    """
    try:
        with torch.device("meta"):
            return _build(checkpoint)
    except _OF_ANY_VALUE as error:
        raise CheckpointRefused(
            f"config.json holds a value that the architecture cannot use ({error}); compare it "
            "with the config.json of the base model"
        ) from error


def load_model(checkpoint: Checkpoint) -> Architecture:
    """The checkpoint's model with float32 weights, in evaluation mode.

    Tensors are read and widened one at a time, so that the peak stays near the float32 weights.
    Raises CheckpointRefused for missing, unexpected, misshapen or pickled weights.
    """
    model = outline(checkpoint)
    places = places_of(model, checkpoint.weights)
    state = {name: stored.read() for name, stored in places.items()}
    model.load_state_dict(state, assign=True)
    return model.eval().requires_grad_(False)


@torch.inference_mode()
def probe(model: Architecture, vocabulary: int) -> None:
    """Check the attention mask: change the last token and compare the first token's state.

    The state must move in a bidirectional model and must not in a causal one. Some versions of
    transformers (4.57) ignore the flag silently; without this probe only wrong scores show it.
    Raises AttentionMismatch.
    """
    ids = torch.arange(_PROBE_TOKENS).remainder(vocabulary).repeat(2, 1)
    ids[1, -1] = (ids[0, -1] + 1) % vocabulary
    masks = [torch.ones_like(ids), torch.zeros_like(ids)][: len(model.inputs) - 1]
    before, after = model.states(ids, *masks)[:, 0]
    if not (torch.isfinite(before).all() and torch.isfinite(after).all()):
        raise CheckpointRefused(
            "the checkpoint's weights give NaN or infinity for an ordinary text, wanted numbers; "
            "train or download it again"
        )
    moved = bool((before - after).abs().max() > _PROBE_SHARE * before.abs().max())
    if moved == model.causal:
        found = "bidirectional" if moved else "causal"
        wanted = "causal" if model.causal else "bidirectional"
        raise AttentionMismatch(
            f"the loaded model is {found}, config.json asks for a {wanted} one: changing the last "
            f"token {'moved' if moved else 'did not move'} the first token's state; check "
            "is_causal in config.json and the attention mask of the architecture"
        )


def _build(checkpoint: Checkpoint) -> Architecture:
    vectors = checkpoint.vectors
    if checkpoint.vision is not None:
        return VISION[checkpoint.architecture](checkpoint.config)
    tail = checkpoint.tail
    if vectors is None and tail is None:
        return CROSS_ENCODERS[checkpoint.architecture](checkpoint.config)
    body = BODIES[checkpoint.architecture](checkpoint.config)
    if vectors is None:
        assert tail is not None
        return ModularCrossEncoder(body, tail.pooling, tail.steps)
    steps = () if tail is None else tail.steps
    return EmbeddingModel(body, vectors.pooling, normalize=vectors.normalize, steps=steps)


def _known_architecture(config: Config) -> str:
    # transformers writes some absent values as null.
    if config.get("quantization_config") is not None:
        raise CheckpointRefused(
            f"{CONFIG_FILE} names quantised weights (quantization_config), wanted float32, float16 "
            "or bfloat16; export the checkpoint that they were made from"
        )
    names = config.get("architectures") or ["none"]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise unlike_base(f"architectures = {shown(names)}", "a list of one name")
    known = (*CROSS_ENCODERS, *BODIES, *VISION)
    unnamed = not config.get("architectures")
    advice = "name the one of these weights as architectures" if unnamed else _OTHERS
    if len(names) != 1 or names[0] not in known:
        raise CheckpointRefused(
            f"{CONFIG_FILE} names the architecture {first(names)}, wanted one of: "
            f"{', '.join(known)}; {advice}"
        )
    sees = config.get("vision_config") is not None or config.get("model_type") in VISION_TYPES
    if sees and names[0] not in VISION:
        raise CheckpointRefused(
            f"{CONFIG_FILE} is a vision-language model's (vision_config), wanted a text model's or "
            f"one of: {', '.join(VISION)}; {_OTHERS}"
        )
    return str(names[0])


def places_of(model: Architecture, weights: Mapping[str, Stored]) -> dict[str, Stored]:
    """Parameter → its tensor. Heads of pretraining are left out, as loaders do.

    Raises CheckpointRefused for a missing, unexpected or misshapen tensor.
    """
    wanted = {name: tuple(p.shape) for name, p in model.named_parameters()}
    named = [(model.place(name), name) for name in weights if not model.is_left_out(name)]
    names = {parameter: name for parameter, name in named if parameter is not None}
    unexpected = {name for parameter, name in named if parameter and names[parameter] != name}
    unexpected |= {name for parameter, name in names.items() if parameter not in wanted}
    misshapen = {
        f"{weights[name].name} {list(weights[name].shape)} (wanted {list(wanted[parameter])})"
        for parameter, name in names.items()
        if parameter in wanted and weights[name].shape != wanted[parameter]
    }
    kinds = {
        "missing": {model.stored_name(parameter) for parameter in wanted.keys() - names.keys()},
        "unexpected": unexpected,
        "of another shape": misshapen,
    }
    lists = [f"{kind}: {first(names)}" for kind, names in kinds.items() if names]
    if lists:
        files = first({stored.file.name for stored in weights.values()}, 2)
        raise CheckpointRefused(
            f"the weights in {files} do not fit the architecture and {CONFIG_FILE}; "
            f"{'; '.join(lists)}; export the checkpoint as it was saved after training"
        )
    return {parameter: weights[name] for parameter, name in names.items()}
