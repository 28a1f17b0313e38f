"""Profiles: facts about a model family and about a target, read from TOML (package `profiles`).

A new model or target is a new file; no code knows a profile by name. Unknown keys are refused. A
model profile may be a user's own file as well.
"""

from importlib import resources
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import msgspec

from runtime.errors import ProfileError
from runtime.model_files import read_bounded
from runtime.template import INSTRUCTION

Kind = Literal["rank", "embed"]
PaddingSide = Literal["left", "right"]
Precision = Literal["fp32", "fp16", "bf16", "int8", "int8-weights", "fp8"]
_Count = Annotated[int, msgspec.Meta(ge=1)]
# The suffix of a user's own profile.
PROFILE_SUFFIX = ".toml"
PROFILE_BYTES = 1 << 20
FIELDS = ("{query}", "{passage}")
# Least, best and most.
Sizes = tuple[_Count, _Count, _Count]
_INPUT_TYPES = ("query", "passage")


class ModelProfile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Facts about one model family that decide its scores.

    `template` holds `{query}` and `{passage}` for families that read one sequence; None means
    that the tokenizer joins the pair itself (BERT). Before them it may hold `{instruction}`, whose
    default is `instruction`, empty for none. What stands there is `instruction_format`, with
    `{instruction}` in it; without an instruction nothing does. With `tokenize_apart` the query and
    the passage each end a part that is tokenised by itself. `words` are the words by whose next
    token a language model answers: the relevant one, and the other one if its logit is subtracted.
    `architectures` are the names in config.json that select this profile when none is named.
    `max_tokens` limits one encoded pair or text.
    `adds_bos` and `adds_eos` say whether the family's tokenizer puts special tokens around it; None
    leaves that to the checkpoint's own.

    For embedders: `prefixes` maps input types to the text before every text of that type (none: the
    model is symmetric), `dimensions` is the size of a vector where the family has only one.
    """

    id: str
    kind: Kind
    architectures: tuple[str, ...] = ()
    template: str | None = None
    instruction: str | None = None
    instruction_format: str | None = None
    tokenize_apart: bool = False
    words: tuple[str, ...] = ()
    adds_bos: bool | None = None
    adds_eos: bool | None = None
    max_tokens: _Count
    padding_side: PaddingSide
    prefixes: dict[str, str] = {}
    dimensions: _Count | None = None

    def __post_init__(self) -> None:
        if not self.id or any(c.isspace() or not c.isprintable() for c in self.id):
            raise ValueError(f"id = {self.id!r}, wanted a name without blanks, such as org/name")
        if self.template is not None:
            self._check_template(self.template)
        elif self.instruction is not None or self.tokenize_apart or self.instruction_format:
            raise ValueError(
                "found instruction, instruction_format or tokenize_apart without a template, "
                "wanted one with them"
            )
        if self.words and (self.kind != "rank" or len(self.words) > 2 or not all(self.words)):
            raise ValueError(f"words = {list(self.words)}, wanted one or two, of a reranker")
        if self.prefixes and self.kind != "embed":
            raise ValueError("found prefixes for a reranker, wanted a template or neither")
        if unknown := self.prefixes.keys() - {*_INPUT_TYPES}:
            raise ValueError(
                f"found prefixes of {', '.join(sorted(unknown))}, wanted "
                f"{' and '.join(_INPUT_TYPES)}"
            )

    def _check_template(self, template: str) -> None:
        if self.kind != "rank":
            raise ValueError("found a template for an embedder, wanted prefixes or neither")
        check_template(template)
        check_instruction(template, self.instruction)
        form = self.instruction_format
        if form is None:
            return
        if self.instruction is None or form.count(INSTRUCTION) != 1 or _has_field(form):
            raise ValueError(
                f"instruction_format = {form!r}, wanted {INSTRUCTION} in it, once, and in the "
                f"template, and neither {' nor '.join(FIELDS)}"
            )


def check_template(template: str) -> None:
    """Raise ValueError for a template that has not both texts, once each and the query first."""
    query, passage = map(template.find, FIELDS)
    if any(template.count(field) != 1 for field in FIELDS) or query > passage:
        raise ValueError(
            f"template = {template!r}, wanted {' followed by '.join(FIELDS)} in it, once each"
        )


def check_instruction(template: str, instruction: str | None) -> None:
    """Raise ValueError for a template whose field for an instruction is not once before the query,
    or that has one without a default `instruction`, or the other way round."""
    place, count = template.find(INSTRUCTION), template.count(INSTRUCTION)
    if count > 1 or place > template.find("{query}"):
        raise ValueError(f"template = {template!r}, wanted {INSTRUCTION} once, before {{query}}")
    if (count == 1) != (instruction is not None):
        raise ValueError(
            f"template = {template!r} with instruction = {instruction!r}, wanted {INSTRUCTION} and "
            "its default, or neither"
        )
    if _has_field(instruction or ""):
        raise ValueError(
            f"found the instruction {instruction!r}, wanted neither {' nor '.join(FIELDS)} in it"
        )


def _has_field(text: str) -> bool:
    return any(field in text for field in FIELDS)


class Shapes(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One optimisation profile: least, best and most rows (`batch`) and tokens a row (`sequence`).

    An engine that is compiled for shapes accepts only these, and is fastest at the best ones.
    """

    batch: Sizes
    sequence: Sizes

    def __post_init__(self) -> None:
        _check_order("batch", self.batch)
        _check_order("sequence", self.sequence)


def _check_order(axis: str, sizes: Sizes) -> None:
    if list(sizes) != sorted(sizes):
        raise ValueError(f"{axis} = {list(sizes)}, wanted least <= best <= most")


class TargetProfile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where and how an artifact runs.

    `engine` is a row of `runtime.engines.ENGINES`; `max_rows` limits rows per engine call;
    `token_budget` limits rows × longest row of one call, in tokens; `padding_waste` is the
    largest share of padding that a call of several rows may have.

    `weights` is the type in which linear layers and embeddings are stored and computed,
    `operators` whether the graph holds ONNX's own operators alone, or those for which ONNX
    Runtime's CUDA provider has fast kernels.

    Of targets with those, a graph that is `lean` keeps the residual stream in the type of the
    weights too and has fewer kernels, and one that is `packed` computes padding in attention alone.
    Calls of up to `graph_tokens` computed tokens replay captured CUDA graphs (0: none).
    `calls_ahead` is the number of full calls that are taken from the queue and laid out while the
    engine computes; a row that comes later waits for these, too.

    `attention` is told padding by a mask, or the lengths of rows, of which older versions of
    TensorRT know nothing.

    For targets of TensorRT: `shapes` are its optimisation profiles, the first for short rows;
    `tiles` are the tiles of images in one call of a vision model, None where plans of them are not
    built; `version_compatible` builds plans that later versions of the same major version also run.
    """

    name: str
    engine: str
    precision: Precision
    max_rows: int
    token_budget: int
    padding_waste: float
    weights: Literal["float32", "float16", "bfloat16"] = "float32"
    operators: Literal["onnx", "onnxruntime-cuda"] = "onnx"
    lean: bool = False
    packed: bool = False
    attention: Literal["mask", "lengths"] = "mask"
    graph_tokens: int = 0
    calls_ahead: int = 0
    shapes: tuple[Shapes, ...] = ()
    tiles: Sizes | None = None
    version_compatible: bool = False

    def __post_init__(self) -> None:
        if self.tiles is not None:
            _check_order("tiles", self.tiles)
        if (self.lean or self.packed) and self.operators != "onnxruntime-cuda":
            raise ValueError(
                f"found operators = {self.operators!r} with lean or packed, wanted "
                "'onnxruntime-cuda', whose graphs these change"
            )
        if self.lean and self.weights == "float32":
            raise ValueError("found lean with weights in float32, wanted half precision")


_Profile = TypeVar("_Profile", ModelProfile, TargetProfile)


def load_model_profile(name: str) -> ModelProfile:
    """The model profile `profiles/models/<name>.toml` (an id with its organisation works too), or
    the user's own, whose path `name` ends in .toml. Raises ProfileError.
    """
    if is_own_profile(name):
        return _load_own(Path(name))
    stem = name.rsplit("/", 1)[-1]
    return _load("models", stem, ModelProfile)


def is_own_profile(name: str) -> bool:
    """Whether `name` is the path of a user's own profile, or the last part of one."""
    return name.endswith(PROFILE_SUFFIX)


def load_target_profile(name: str) -> TargetProfile:
    """The target profile `profiles/targets/<name>.toml`."""
    return _load("targets", name, TargetProfile)


def model_profile_names() -> list[str]:
    """Names that `load_model_profile` takes, sorted."""
    return _names("models")


def target_profile_names() -> list[str]:
    """Names that `load_target_profile` takes, sorted."""
    return _names("targets")


def _names(folder: str) -> list[str]:
    entries = resources.files("profiles").joinpath(folder).iterdir()
    return sorted(e.name.removesuffix(".toml") for e in entries if e.name.endswith(".toml"))


def _load(folder: str, name: str, kind: type[_Profile]) -> _Profile:
    known = _names(folder)
    if name not in known:
        raise ProfileError(f"found no profile named {name!r}, wanted one of: {', '.join(known)}")
    text = resources.files("profiles").joinpath(folder, f"{name}.toml").read_bytes()
    return _decoded(text, f"profiles/{folder}/{name}.toml", kind)


def _load_own(path: Path) -> ModelProfile:
    try:
        raw = read_bounded(path, PROFILE_BYTES)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise ProfileError(
            f"cannot read the model profile {path}: {why}; wanted a file in TOML, or one of our "
            f"names: {', '.join(model_profile_names())}"
        ) from error
    return _decoded(raw, str(path), ModelProfile)


def _decoded(raw: bytes, place: str, kind: type[_Profile]) -> _Profile:
    try:
        return msgspec.toml.decode(raw, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProfileError(
            f"{place}: {error}; compare it with the profiles that come with the package"
        ) from error
