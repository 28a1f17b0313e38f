"""From a checkpoint to a proven artifact: the order of work and nothing else.

load → probe → reference scores → token check → ONNX → parity on the engine that will serve →
parity.json → goldens → manifest.json, last → rename into place
"""

import hashlib
import tempfile
from dataclasses import dataclass
from pathlib import Path

import msgspec
import onnx
from onnx import TensorProto, helper

from exporter.architectures.base import Architecture
from exporter.checkpoint import Checkpoint, load_model, probe, read_checkpoint
from exporter.errors import CheckpointRefused, ManifestWrong
from exporter.onnx_file import OPSET, move_to_onnx
from exporter.parity import (
    EngineScores,
    climb_scores,
    climb_tokens,
    golden_tolerance,
    open_report,
    package_versions,
)
from exporter.progress import stage
from exporter.reference import Reference, reference_scores
from exporter.report import Parity, read_report, require_passed, write_report
from exporter.tokens import CheckpointTokenizer
from exporter.workspace import refuse_foreign, workspace
from runtime.engines import open_engine
from runtime.errors import ProfileError
from runtime.manifest import (
    MODEL_FILE,
    PARITY_FILE,
    SCHEMA,
    TOKENIZER_FILE,
    Golden,
    Manifest,
    SpecialTokens,
    check_files,
    hash_file,
    read_manifest,
    write_manifest,
)
from runtime.opening import open_ranker
from runtime.profile import (
    ModelProfile,
    TargetProfile,
    load_model_profile,
    load_target_profile,
    model_profile_names,
)
from runtime.text import PairEncoder, load_tokenizer

GOLDENS = 4
_VERSION_DIGITS = 12
# What the checkpoint and the profiles decide, in a manifest.
_FACTS = (
    "kind",
    "model_id",
    "template",
    "special_tokens",
    "padding_side",
    "pooling",
    "temperature",
    "causal",
    "precision",
    "inputs",
    "outputs",
)


@dataclass(frozen=True)
class Wish:
    """What an export was asked for: profiles by name, `max_tokens` None for the profile's.

    `engine` is the one to prove on, None for the target's own.
    """

    profile: str | None = None
    target: str = "cpu-fp32"
    max_tokens: int | None = None
    engine: str | None = None


def export(source: str, out: Path, wish: Wish) -> Manifest:
    """Export the checkpoint `source` into the artifact directory `out`, proven.

    Raises ExportError or ServingError; `out` then is as it was before.
    """
    target = load_target_profile(wish.target)
    engine = wish.engine or target.engine
    refuse_foreign(out)
    _require_engine(engine)
    checkpoint = read_checkpoint(source)
    profile_name = wish.profile or _profile_for(checkpoint.architecture)
    profile = load_model_profile(profile_name)
    with workspace(out) as directory:
        with stage("load the checkpoint"):
            model = load_model(checkpoint)
            probe(model, checkpoint.config["vocab_size"])
        _refuse_other_family(profile, profile_name, model)
        max_tokens = _max_tokens(wish.max_tokens, profile, model)
        tokenizer = _tokenizer(checkpoint, profile.template, max_tokens)
        specials = _special_tokens(profile, tokenizer, checkpoint.config["vocab_size"])
        manifest = _draft(profile_name, profile, target, model, specials, max_tokens)
        with stage("score the parity texts in PyTorch"):
            vocabulary = checkpoint.config["vocab_size"]
            reference = reference_scores(model, tokenizer, vocabulary, max_tokens)
        _refuse_tiny_limit(reference, max_tokens)
        report = open_report(engine, target.precision, random_weights=checkpoint.random_weights)
        tokenizer.save(directory / "tokenizer")
        try:
            _check_tokens(directory, report, reference, manifest)
            with stage("write the ONNX graph"):
                move_to_onnx(model.halve() if target.precision == "fp16" else model, directory)
            scores = _check_scores(directory, report, reference, manifest, engine)
        finally:
            write_report(directory, report)
        with stage("seal the artifact"):
            manifest = _seal(directory, manifest, report, reference, scores)
        with stage("open it as a server does"):
            _open_once(directory, engine)
    return manifest


def _open_once(directory: Path, engine: str) -> None:
    """The reader's own path, before anybody relies on it: hashes, engine, goldens."""
    ranker = open_ranker(directory, engine=engine)
    try:
        ranker.warm_up()
    finally:
        ranker.close()


def verify(directory: Path, source: str | None, engine: str | None) -> Manifest:
    """Check an artifact's hashes and goldens, and with a checkpoint all three rungs again.

    Writes nothing. Raises ArtifactError, EngineError or ExportError naming what differs.
    """
    manifest = read_manifest(directory)
    with stage("check hashes"):
        check_files(directory, manifest)
    if manifest.version != (wanted := _version(manifest)):
        raise ManifestWrong("version", manifest.version, wanted)
    require_passed(read_report(directory))
    with stage("check goldens"):
        _open_once(directory, engine or load_target_profile(manifest.target).engine)
    if source is not None:
        _verify_against(directory, manifest, read_checkpoint(source), engine)
    return manifest


def _verify_against(
    directory: Path, manifest: Manifest, checkpoint: Checkpoint, engine: str | None
) -> None:
    target = load_target_profile(manifest.target)
    engine = engine or target.engine
    with stage("score the parity texts in PyTorch"):
        model = load_model(checkpoint)
        probe(model, checkpoint.config["vocab_size"])
        tokenizer = _tokenizer(checkpoint, manifest.template, manifest.max_tokens)
        vocabulary = checkpoint.config["vocab_size"]
        _compare_facts(manifest, target, model, tokenizer, vocabulary)
        reference = reference_scores(model, tokenizer, vocabulary, manifest.max_tokens)
    del model  # before the engine opens: two copies of the weights are too many
    report = open_report(engine, target.precision, random_weights=checkpoint.random_weights)
    _check_tokens(directory, report, reference, manifest)
    _check_scores(directory, report, reference, manifest, engine)


def _compare_facts(
    manifest: Manifest,
    target: TargetProfile,
    model: Architecture,
    tokenizer: CheckpointTokenizer,
    vocabulary: int,
) -> None:
    """Raise ManifestWrong for the first fact that the checkpoint does not bear out."""
    profile = load_model_profile(manifest.profile)
    specials = _special_tokens(profile, tokenizer, vocabulary)
    max_tokens = _max_tokens(manifest.max_tokens, profile, model)
    wanted = _draft(manifest.profile, profile, target, model, specials, max_tokens)
    for fact in _FACTS:
        if getattr(manifest, fact) != getattr(wanted, fact):
            raise ManifestWrong(fact, getattr(manifest, fact), getattr(wanted, fact))


def _require_engine(name: str) -> None:
    """Open the engine on a graph of one node: hardware that is missing shows before any work."""
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    same = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [value], [same])
    opset = helper.make_opsetid("", OPSET)
    with tempfile.TemporaryDirectory() as directory:
        # IR version 10 is what engines of this opset read; the library writes its newest.
        model = helper.make_model(graph, opset_imports=[opset], ir_version=10)
        onnx.save(model, Path(directory) / MODEL_FILE)
        open_engine(name, Path(directory)).close()


def _profile_for(architecture: str) -> str:
    names = model_profile_names()
    fitting = [n for n in names if architecture in load_model_profile(n).architectures]
    if len(fitting) != 1:
        raise ProfileError(
            f"found {len(fitting)} profiles for the architecture {architecture}, wanted one; "
            f"choose with --profile: {', '.join(names)}"
        )
    return fitting[0]


def _refuse_other_family(profile: ModelProfile, name: str, model: Architecture) -> None:
    """A template is for models that read one sequence, type ids are for those that read two."""
    if (profile.template is None) != ("token_type_ids" in model.inputs):
        raise ProfileError(
            f"profile {name} {'has no' if profile.template is None else 'has a'} template, but the "
            f"checkpoint's model reads {', '.join(model.inputs)}; leave --profile out, or name one "
            "of this family"
        )


def _tokenizer(
    checkpoint: Checkpoint, template: str | None, max_tokens: int
) -> CheckpointTokenizer:
    model_type = checkpoint.config.get("model_type")
    return CheckpointTokenizer(checkpoint.directory, model_type, template, max_tokens)


def _special_tokens(
    profile: ModelProfile, tokenizer: CheckpointTokenizer, vocabulary: int
) -> SpecialTokens:
    """The tokenizer's special tokens, refused when the family's are others.

    Both sides of every comparison would read the same wrong prompt.
    """
    specials = tokenizer.special_tokens(vocabulary)
    facts = (
        ("beginning", specials.bos, profile.adds_bos),
        ("end", specials.eos, profile.adds_eos),
    )
    for where, token, wanted in facts:
        if (token is not None) != wanted:
            raise CheckpointRefused(
                f"the tokenizer adds {'no token' if token is None else f'token {token}'} at the "
                f"{where} of a pair, but this family wants {'one' if wanted else 'none'}; check "
                "the post-processor in tokenizer.json, or name another --profile"
            )
    return specials


def _max_tokens(wished: int | None, profile: ModelProfile, model: Architecture) -> int:
    limit = min(profile.max_tokens, model.position_limit)
    if wished is not None and wished > limit:
        raise CheckpointRefused(
            f"found a wish for {wished} tokens, the profile and config.json allow {limit}; lower "
            "--max-tokens"
        )
    return wished or limit


def _draft(
    name: str,
    profile: ModelProfile,
    target: TargetProfile,
    model: Architecture,
    specials: SpecialTokens,
    max_tokens: int,
) -> Manifest:
    """The manifest as far as it is known before anything was written."""
    return Manifest(
        schema=SCHEMA,
        kind=profile.kind,
        model_id=profile.id,
        profile=name.rsplit("/", 1)[-1],
        target=target.name,
        version="draft",
        template=profile.template,
        special_tokens=specials,
        padding_side=profile.padding_side,
        max_tokens=max_tokens,
        pooling=model.pooling,
        temperature=model.temperature,
        causal=model.causal,
        normalize=False,
        dimensions=None,
        precision=target.precision,
        inputs=list(model.inputs),
        outputs=["logits"],
        opset=OPSET,
        versions=package_versions(),
        hardware=None,
        files={},
        goldens=[],
        golden_tolerance=0.0,
    )


def _check_tokens(
    directory: Path, report: Parity, reference: Reference, manifest: Manifest
) -> None:
    encoder = PairEncoder(
        load_tokenizer(directory / TOKENIZER_FILE), manifest.template, manifest.max_tokens
    )
    climb_tokens(report, reference, encoder)


def _check_scores(
    directory: Path, report: Parity, reference: Reference, manifest: Manifest, engine: str
) -> EngineScores:
    with stage(f"prove parity on {engine}"):
        ranker = open_ranker(directory, manifest=manifest, engine=engine)
        try:
            return climb_scores(report, reference, ranker)
        finally:
            ranker.close()


def _seal(
    directory: Path,
    manifest: Manifest,
    report: Parity,
    reference: Reference,
    scores: EngineScores,
) -> Manifest:
    """Record hashes and goldens, and write manifest.json."""
    paths = sorted(p for p in directory.rglob("*") if p.is_file())
    files = {p.relative_to(directory).as_posix(): hash_file(p) for p in paths}
    sealed = msgspec.structs.replace(
        manifest,
        files=files,
        goldens=_goldens(reference, scores, manifest.max_tokens),
        golden_tolerance=golden_tolerance(report),
    )
    sealed = msgspec.structs.replace(sealed, version=_version(sealed))
    write_manifest(directory, sealed)
    return sealed


def _refuse_tiny_limit(reference: Reference, max_tokens: int) -> None:
    rows = [row for group in reference.tokens for row in group]
    if all(len(row.token_ids) >= max_tokens for row in rows):
        raise CheckpointRefused(
            f"found a limit of {max_tokens} tokens, into which no parity text fits uncut; raise "
            "--max-tokens"
        )


def _goldens(reference: Reference, scores: EngineScores, max_tokens: int) -> list[Golden]:
    """The first uncut pair of the first groups, with the logit that the engine gives it alone.

    Whoever opens the artifact encodes goldens without truncation, so a cut one would not fit.
    """
    goldens = []
    for group, tokens, alone in zip(reference.groups, reference.tokens, scores.alone, strict=True):
        fitting = [i for i, row in enumerate(tokens) if len(row.token_ids) < max_tokens]
        if fitting and len(goldens) < GOLDENS:
            goldens.append(
                Golden(
                    query=group.query,
                    passage=group.passages[fitting[0]],
                    token_ids=tokens[fitting[0]].token_ids,
                    logit=float(alone[fitting[0]]),
                )
            )
    return goldens


def _version(manifest: Manifest) -> str:
    """A short hash of what decides the scores; reports, which differ from run to run, are not."""
    decisive = {name: digest for name, digest in manifest.files.items() if name != PARITY_FILE}
    digest = hashlib.sha256(msgspec.json.encode([decisive, manifest.template, manifest.max_tokens]))
    return digest.hexdigest()[:_VERSION_DIGITS]
