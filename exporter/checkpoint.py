"""Reading a Hugging Face checkpoint: its config, weights and tokenizer, and what is refused.

A checkpoint is a directory, or a hub id that is downloaded first. Only JSON, safetensors and
tokenizer files are read; no code of the checkpoint ever runs.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch

from exporter.architectures import BODIES, CROSS_ENCODERS
from exporter.architectures.base import Architecture, Size
from exporter.architectures.config import shown, whole
from exporter.architectures.embedding import EmbeddingModel
from exporter.embedding_files import VectorFacts, transformer_directory, vector_facts
from exporter.errors import CheckpointRefused, WrongDirection
from exporter.folder import WatchedConfig, refuse_rank_modules, refuse_unread_files
from exporter.options import POOLING_OPTION
from exporter.sentence_files import TextFacts, model_settings, text_facts
from exporter.sizes import check_sizes
from exporter.tokenizer_files import check_tokenizer
from exporter.weights import Stored, first, stored_tensors
from runtime.activation import CONFIG_FILE as CONFIG_FILE
from runtime.activation import saved_activation
from runtime.model_files import JSON_BYTES, read_bounded
from runtime.postprocess import Activation
from runtime.profile import Kind

_HUB_FILES = (
    "*.json",
    "*.safetensors",
    "*.jinja",
    "tokenizer.model",
    "sentencepiece.bpe.model",
    "spm.model",
    "vocab.txt",
    "merges.txt",
)
# ORG/NAME, or ORG/NAME@COMMIT for what that name stood for once.
_HUB_ID = re.compile(r"([\w.-]+/[\w.-]+)(?:@([0-9a-f]{40}))?")
_PROBE_TOKENS = 8
# A hidden state that moves by less than this share of its size has not moved.
_PROBE_SHARE = 1e-5


@dataclass(frozen=True)
class Checkpoint:
    """A readable, exportable checkpoint.

    `source` is what the user named, `root` where that lies; `directory` holds weights and
    tokenizer; `config` is config.json, whose sizes are those of the `weights` by name; `texts` says
    how texts become tokens, `vectors` how an embedder makes its vectors (None for a reranker);
    `activation` is what makes a relevance of a reranker's logit (None for an embedder);
    `random_weights` is true for the seeded checkpoints of tests and measurements, which say so in
    config.json (`"random_weights": true`) because parity judges them by another rule.
    """

    source: str
    root: Path
    directory: Path
    config: WatchedConfig
    architecture: str
    weights: Mapping[str, Stored]
    random_weights: bool
    texts: TextFacts
    vectors: VectorFacts | None = None
    activation: Activation | None = None

    @property
    def kind(self) -> Kind:
        """Whether this is a reranker or an embedder."""
        return "rank" if self.vectors is None else "embed"


def find_checkpoint(source: str) -> Path:
    """The directory of `source`; a hub id that is no directory here is downloaded.

    A hub id ends with `@` and 40 hex digits to name one commit; alone it is what the hub has now.

    Raises CheckpointRefused when there is neither.
    """
    path = Path(source)
    if path.is_dir():
        return path
    named = _HUB_ID.fullmatch(source)
    if source.startswith(".") or named is None:
        raise CheckpointRefused(
            f"found no directory {source!r}, wanted a checkpoint directory with {CONFIG_FILE}, or "
            "a hub id such as nvidia/llama-nemotron-rerank-1b-v2"
        )
    return _download(source, named[1], named[2])


def read_checkpoint(source: str, *, strict: bool = False, pooling: str | None = None) -> Checkpoint:
    """Find `source` and read what says what it is, refusing what cannot be exported faithfully.

    Of weights only names and shapes are read: what config.json and the tokenizer claim is compared
    with them before anything of that size is built. A file that nobody knows is told, or refused
    where `strict`. `pooling` is an embedder's where no file names one.
    """
    root = find_checkpoint(source)
    _refuse_special_files(root)
    directory = transformer_directory(root)
    _refuse_special_files(directory)
    refuse_unread_files(root, directory, strict=strict)
    path = directory / CONFIG_FILE
    try:
        config = WatchedConfig(
            msgspec.json.decode(read_bounded(path, JSON_BYTES), type=dict[str, Any])
        )
    except FileNotFoundError:
        raise CheckpointRefused(
            f"found no {CONFIG_FILE} in {directory}, wanted a Hugging Face checkpoint; name the "
            "directory that save_pretrained wrote"
        ) from None
    except OSError as error:
        raise CheckpointRefused(
            f"cannot read {path}: {error.strerror}; copy or download the checkpoint again"
        ) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CheckpointRefused(f"{path} is not readable JSON: {error}") from error
    architecture = _known_architecture(config)
    random_weights = bool(config.get("random_weights", False))
    vectors, activation = None, None
    if architecture in BODIES:
        family_pools = BODIES[architecture].pools
        vectors = vector_facts(root, config, family_pools=family_pools, wished=pooling)
    else:
        _refuse_pooling(architecture, pooling)
        _refuse_labels(config)
        refuse_rank_modules(root)
        activation = _activation(root, config)
    kind = "rank" if vectors is None else "embed"
    templated = vectors is None and CROSS_ENCODERS[architecture].templated
    texts = text_facts(root, directory, kind, templated=templated)
    weights = stored_tensors(directory)
    _check_sizes(architecture, config, weights)
    check_tokenizer(directory, whole(config, "vocab_size"))
    return Checkpoint(
        source=source,
        root=root,
        directory=directory,
        config=config,
        architecture=architecture,
        weights=weights,
        random_weights=random_weights,
        texts=texts,
        vectors=vectors,
        activation=activation,
    )


def _check_sizes(
    architecture: str, config: Mapping[str, Any], weights: Mapping[str, Stored]
) -> None:
    if architecture in BODIES:
        return check_sizes(BODIES[architecture], (), config, weights)
    model = CROSS_ENCODERS[architecture]
    return check_sizes(model.trunk, [Size("num_labels", 1, model.logit)], config, weights)


def _refuse_pooling(architecture: str, pooling: str | None) -> None:
    if pooling is not None:
        raise CheckpointRefused(
            f"found {POOLING_OPTION} {pooling}, but {architecture} is a reranker, whose pooling "
            "its architecture and config.json decide; leave it out"
        )


def _activation(root: Path, config: Mapping[str, Any]) -> Activation:
    """The activation that the checkpoint was saved with; with one label the sigmoid is the
    default of sentence-transformers."""
    try:
        return saved_activation(config, model_settings(root) or {}) or "sigmoid"
    except ValueError as error:
        raise CheckpointRefused(str(error)) from None


def _refuse_special_files(directory: Path) -> None:
    """Links may lead anywhere, as those of the hub's cache do; but what reads a FIFO or a device,
    here or in transformers, does not come back."""
    for path in directory.glob("*"):
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise CheckpointRefused(
                f"found {path.name} in {directory}, which is no regular file; copy or download the "
                "checkpoint again"
            )


def outline(checkpoint: Checkpoint) -> Architecture:
    """The checkpoint's model without its weights: what config.json alone decides.

    Raises CheckpointRefused.
    """
    try:
        with torch.device("meta"):
            return _build(checkpoint)
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
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
    """Change the last token and see whether the first token's state moves.

    It must in a bidirectional model and must not in a causal one. Some versions of transformers
    ignore the flag without a word (4.57 does), and then only the scores tell.
    Raises WrongDirection.
    """
    ids = torch.arange(_PROBE_TOKENS).remainder(vocabulary).repeat(2, 1)
    ids[1, -1] = (ids[0, -1] + 1) % vocabulary
    masks = [torch.ones_like(ids), torch.zeros_like(ids)][: len(model.inputs) - 1]
    before, after = model.states(ids, *masks)[:, 0]
    if not (torch.isfinite(before).all() and torch.isfinite(after).all()):
        raise CheckpointRefused(
            "the checkpoint gives NaN or infinity for an ordinary text; its weights are broken, "
            "train or download it again"
        )
    moved = bool((before - after).abs().max() > _PROBE_SHARE * before.abs().max())
    if moved == model.causal:
        found = "bidirectional" if moved else "causal"
        wanted = "causal" if model.causal else "bidirectional"
        raise WrongDirection(
            f"the loaded model is {found}, config.json asks for a {wanted} one: changing the last "
            f"token {'moved' if moved else 'did not move'} the first token's state; check "
            "is_causal in config.json and the attention mask of the architecture"
        )


def _build(checkpoint: Checkpoint) -> Architecture:
    vectors = checkpoint.vectors
    if vectors is None:
        return CROSS_ENCODERS[checkpoint.architecture](checkpoint.config)
    body = BODIES[checkpoint.architecture](checkpoint.config)
    return EmbeddingModel(body, vectors.pooling, normalize=vectors.normalize)


def _download(source: str, name: str, commit: str | None) -> Path:
    import huggingface_hub  # late: only hub ids need it

    try:
        found = huggingface_hub.snapshot_download(
            name, revision=commit, allow_patterns=list(_HUB_FILES)
        )
    except Exception as error:  # the hub's client raises many unrelated classes
        raise CheckpointRefused(
            f"found no directory {source!r}, and could not download it from the model hub "
            f"({type(error).__name__}); check the spelling and the network, log in with `hf auth "
            "login` if access is gated, or download the checkpoint elsewhere and name its directory"
        ) from error
    return Path(found)


def _known_architecture(config: dict[str, Any]) -> str:
    if config.get("model_type") == "llama_nemotron_vl_rerank" or _is_set(config, "vision_config"):
        raise CheckpointRefused(
            "found a vision-language checkpoint (vision_config), wanted a text reranker; VL "
            "rerankers are not supported"
        )
    if _is_set(config, "quantization_config"):
        raise CheckpointRefused(
            "found quantised weights (quantization_config), wanted float32, float16 or bfloat16; "
            "export the checkpoint that they were made from"
        )
    names = config.get("architectures") or ["none"]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise CheckpointRefused(f"found architectures = {shown(names)}, wanted a list of one name")
    known = (*CROSS_ENCODERS, *BODIES)
    if len(names) != 1 or names[0] not in known:
        raise CheckpointRefused(
            f"found the architecture {', '.join(names)}, wanted one of: {', '.join(known)}"
        )
    return str(names[0])


def _is_set(config: Mapping[str, Any], name: str) -> bool:
    """transformers writes some of what is not there as null."""
    return config.get(name) is not None


def _refuse_labels(config: dict[str, Any]) -> None:
    # transformers leaves both keys out of config.json for its default of two labels.
    named = config.get("id2label")
    if named is not None and not isinstance(named, dict):
        raise CheckpointRefused(f"found id2label = {shown(named)}, wanted an object with one label")
    labels = whole(config, "num_labels", len(named or "12"))
    if labels != 1:
        raise CheckpointRefused(
            f"found num_labels = {labels}, wanted 1: a reranker gives one logit a pair; fine-tune "
            "with one label, or set num_labels (or id2label) in config.json if the head has one"
        )


def places_of(model: Architecture, weights: Mapping[str, Stored]) -> dict[str, Stored]:
    """Parameter → its tensor. Raises CheckpointRefused unless all are there and of their shapes."""
    wanted = {name: tuple(p.shape) for name, p in model.named_parameters()}
    named = [(model.place(name), name) for name in weights]
    names = {parameter: name for parameter, name in named if parameter is not None}
    unexpected = {name for parameter, name in named if parameter and names[parameter] != name}
    unexpected |= {name for parameter, name in names.items() if parameter not in wanted}
    misshapen = {
        f"{weights[name].name} {list(weights[name].shape)} (wanted {list(wanted[parameter])})"
        for parameter, name in names.items()
        if parameter in wanted and weights[name].shape != wanted[parameter]
    }
    kinds = {
        "missing": wanted.keys() - names.keys(),
        "unexpected": unexpected,
        "of another shape": misshapen,
    }
    lists = [f"{kind}: {first(names)}" for kind, names in kinds.items() if names]
    if lists:
        raise CheckpointRefused(
            f"the weights do not fit the architecture and config.json; {'; '.join(lists)}; export "
            "the checkpoint as it was saved after training"
        )
    return {parameter: weights[name] for parameter, name in names.items()}
