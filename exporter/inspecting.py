"""`rerank-export inspect`: a table of the facts that decide a score with their origins, then the
rest of the manifest, the proofs and the tuning."""

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
import tokenizers

from exporter.report import Parity, read_report
from runtime.artifact import find_directory
from runtime.errors import ArtifactError
from runtime.manifest import TOKENIZER_FILE, Manifest, read_manifest
from runtime.text import load_tokenizer
from runtime.tuning import read_tuning

_TYPES = "token_type_ids"
# The facts that decide a score, by kind of model.
_DECISIVE: Mapping[str, tuple[str, ...]] = {
    "rank": ("template", "pooling", "temperature", "activation"),
    "embed": ("prefixes", "pooling", "normalize", "dimensions"),
}
_OF_ALL = (
    *("causal", "max_tokens", "special_tokens", "padding_side", "lower_case", "token_types"),
    "profile",
)
# Facts that few models have.
_SOMETIMES = ("instruction", "tokenize_apart", "merged")
_UNRECORDED = "not recorded"
# Longer values do not widen the column.
_WIDEST = 36


def describe_artifact(directory: Path) -> Iterator[str]:
    """The lines to print. Raises ArtifactError and ReportRefused."""
    directory = find_directory(directory)
    manifest, parity = read_manifest(directory), read_report(directory)
    yield from _table(directory, manifest)
    yield ""
    for name, value in _rest(manifest):
        yield f"{name:<16} {value}"
    for report in (parity, *([parity.plan] if parity.plan else [])):
        yield from _proof(report)
    if (tuning := read_tuning(directory)) is not None:
        where = f"{tuning.conditions.get('engine')} on {tuning.conditions.get('cpu')}"
        yield f"{'tuned':<16} {tuning.shown()}, for {where}"
    for one in parity.candidates or ():
        speed = f"fell out: {one.refused}" if one.refused else f"{one.tokens_per_s:.0f} tokens/s"
        yield f"{'candidate':<16} {one.target}, {speed}"


def _table(directory: Path, manifest: Manifest) -> Iterator[str]:
    facts = msgspec.structs.asdict(manifest) | _of_tokenizer(directory, manifest)
    facts["special_tokens"] = ", ".join(
        f"{name} {'none' if token is None else token}"
        for name, token in msgspec.structs.asdict(manifest.special_tokens).items()
    )
    facts["prefixes"] = manifest.prefixes or "none"
    facts["merged"] = ", ".join(f"{name} {digest}" for name, digest in manifest.merged.items())
    if manifest.instruction_format is not None:
        facts["instruction"] = (
            f"{manifest.instruction or 'none'}, a request's own as {manifest.instruction_format!r}"
        )
    if manifest.template is not None:
        facts["template"] = repr(manifest.template)
    else:
        facts["template"] = "none: the tokenizer joins the pair"
    present = [name for name in _SOMETIMES if facts[name]]
    names = (*_DECISIVE[manifest.kind], *_OF_ALL, *present)
    rows = [(name, str(facts[name])) for name in names]
    width = max((len(value) for _, value in rows if len(value) <= _WIDEST), default=0)
    yield f"{'fact':<16} {'value':<{width}}  read in"
    for name, value in rows:
        origin = manifest.origins.get(name, _UNRECORDED)
        if name == "template" and manifest.template is None:
            origin = manifest.origins.get(name, "the architecture")
        yield f"{name:<16} {value:<{width}}  {origin}"
    # Facts without a field in the manifest.
    listed = {*_OF_ALL, *_SOMETIMES, *itertools.chain(*_DECISIVE.values())}
    for name in sorted(manifest.origins.keys() - listed):
        yield f"{name:<16} {'':<{width}}  {manifest.origins[name]}"


def _of_tokenizer(directory: Path, manifest: Manifest) -> dict[str, str]:
    """Facts of the artifact's tokenizer that have no field in the manifest."""
    try:
        tokenizer = load_tokenizer(directory / TOKENIZER_FILE)
    except ArtifactError:
        return dict.fromkeys(("lower_case", "token_types"), f"unknown: no {TOKENIZER_FILE}")
    return {
        "lower_case": str(_lowers(tokenizer)),
        "token_types": _types(tokenizer, manifest),
    }


def _lowers(tokenizer: tokenizers.Tokenizer) -> bool:
    normalizer = tokenizer.normalizer
    return normalizer is not None and "A" not in normalizer.normalize_str("A")


def _types(tokenizer: tokenizers.Tokenizer, manifest: Manifest) -> str:
    if _TYPES not in manifest.inputs:
        return "none"
    if manifest.kind == "embed" or 1 not in tokenizer.encode("a", "a").type_ids:
        return "all 0"
    return "query 0, passage 1"


def _rest(manifest: Manifest) -> Iterator[tuple[str, object]]:
    facts = msgspec.structs.asdict(manifest)
    facts["files"] = ", ".join(manifest.files)
    facts["goldens"] = f"{len(manifest.goldens)} pairs"
    facts["vector_goldens"] = f"{len(manifest.vector_goldens)} texts"
    facts["image_goldens"] = f"{len(manifest.image_goldens)} images"
    shown_fields = {*_DECISIVE[manifest.kind], *_OF_ALL, *_SOMETIMES, "origins"}
    return ((name, value) for name, value in facts.items() if name not in shown_fields)


def _proof(report: Parity) -> Iterator[str]:
    yield f"{'proven on':<16} {report.engine}, {report.hardware}"
    yield f"{'compared with':<16} {report.witness}"
    for name, note in (("cut", report.cut), ("flat", report.flat)):
        if note:
            yield f"{name:<16} {note}"
    for name, rung in report.rungs.items():
        figures = msgspec.to_builtins(rung)
        passed = "passed" if figures.pop("passed") else "FAILED"
        shown = ", ".join(f"{key} {value:.4g}" for key, value in figures.items())
        yield f"{'  ' + name:<16} {passed}: {shown}"
