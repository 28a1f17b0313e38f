"""From a checkpoint to a proven artifact: the order of work and nothing else.

load → probe → the checkpoint's answers → token check → ONNX → parity on the engine that will
serve → parity.json → goldens → manifest.json, last → rename into place
"""

import shutil
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import msgspec
import onnx
import torch
from onnx import TensorProto, helper

from exporter import onnxruntime_cuda
from exporter.answers import Reference, VectorReference, write_reference
from exporter.architectures.base import Architecture
from exporter.artifact_model import ArtifactModel
from exporter.checkpoint import Checkpoint, load_model, probe, read_checkpoint
from exporter.errors import CheckpointRefused, ExportError, ManifestWrong, OutputRefused
from exporter.long_rows import LONG, bound_attention, bounded_copy, unbound_attention
from exporter.onnx_file import OPSET, move_to_onnx
from exporter.parity import COARSE, open_report, package_versions
from exporter.progress import stage
from exporter.proof import Proof, make_proof
from exporter.quantization.static import quantize_for_tensorrt
from exporter.quantization.step import quantize
from exporter.reference import Answering, ask
from exporter.report import Parity, read_report, require_passed, write_report
from exporter.seal import open_once, seal, version_of
from exporter.tokenizer_files import refuse_unknown_ids
from exporter.tokens import CheckpointTokenizer
from exporter.workspace import refuse_foreign, workspace
from runtime.engines import open_engine
from runtime.errors import ProfileError
from runtime.manifest import (
    MODEL_FILE,
    SCHEMA,
    TOKENIZER_FILE,
    Manifest,
    SpecialTokens,
    check_files,
    read_manifest,
)
from runtime.opening import open_model
from runtime.profile import (
    ModelProfile,
    TargetProfile,
    load_model_profile,
    load_target_profile,
    model_profile_names,
)
from runtime.text import load_tokenizer

# Precisions whose graph is made of the float32 one.
_FROM_FLOATS = ("bf16", "int8", "int8-weights")
# What the checkpoint and the profiles decide, in a manifest.
_FACTS = (
    "kind",
    "model_id",
    "template",
    "prefixes",
    "special_tokens",
    "padding_side",
    "pooling",
    "temperature",
    "causal",
    "normalize",
    "dimensions",
    "precision",
    "inputs",
    "outputs",
    "activation",
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


# What asks a model for the answers that prove an artifact of a draft: `exporter.reference.ask`.
Asking = Callable[[Manifest, Answering, CheckpointTokenizer, int], Reference | VectorReference]


def export(source: str, out: Path, wish: Wish, asking: Asking = ask) -> Manifest:
    """Export the checkpoint `source` into the artifact directory `out`, proven by the answers that
    `asking` brings.

    Raises ExportError or ServingError; `out` then is as it was before.
    """
    target = load_target_profile(wish.target)
    engine = wish.engine or proving_engine(target)
    refuse_foreign(out)
    _require_engine(engine)
    checkpoint = read_checkpoint(source)
    profile_name = wish.profile or profile_for(checkpoint.architecture)
    profile = load_model_profile(profile_name)
    _refuse_other_kind(profile, profile_name, checkpoint)
    with workspace(out) as directory:
        with stage("load the checkpoint"):
            model = load_model(checkpoint)
            probe(model, checkpoint.config["vocab_size"])
        _refuse_other_family(profile, profile_name, model)
        max_tokens = _max_tokens(wish.max_tokens, profile, target, model, checkpoint)
        tokenizer = _tokenizer(checkpoint, profile.template, max_tokens)
        manifest = _draft(profile_name, target, checkpoint, model, tokenizer, max_tokens)
        with stage("ask PyTorch about the parity texts"):
            answers = asking(manifest, model, tokenizer, checkpoint.config["vocab_size"])
        _refuse_tiny_limit(make_proof(manifest, answers), max_tokens)
        report = open_report(engine, target, random_weights=checkpoint.random_weights)
        tokenizer.save(directory / "tokenizer")

        def write_graph() -> None:
            with stage("write the ONNX graph"):
                _write_graph(model, target, directory)

        return _make(directory, manifest, report, answers, write_graph)


def coarsen(
    source: Path,
    out: Path,
    target_name: str,
    *,
    checkpoint: str | None = None,
    engine: str | None = None,
) -> Manifest:
    """Make an artifact of a coarser precision out of the proven fp32 artifact `source`.

    It is proven against the `checkpoint`, or without one against the scores of `source` itself,
    which parity.json says then; on `engine`, None for the target's own. Raises ExportError or
    ServingError; `out` then is as it was before.
    """
    target = load_target_profile(target_name)
    engine = engine or target.engine
    fine = read_manifest(source)
    _refuse_coarsening(fine, target, source, out)
    refuse_foreign(out)
    _require_engine(engine)
    with stage("check hashes"):
        check_files(source, fine)
    require_passed(read_report(source))
    # What the source was not proven for, no coarser form of it is.
    schema = fine.schema if checkpoint is None else SCHEMA
    draft = msgspec.structs.replace(
        fine,
        schema=schema,
        target=target.name,
        precision=target.precision,
        version="draft",
        versions=package_versions(),
        files={},
    )
    random_weights = False
    with workspace(out) as directory:
        if checkpoint is None:
            answers = _ask_artifact(source, fine, draft)
        else:
            found = read_checkpoint(checkpoint)
            random_weights = found.random_weights
            answers = _ask_checkpoint(draft, found)
        report = open_report(engine, target, random_weights=random_weights)
        if checkpoint is None:
            report.reference = f"the {fine.precision} artifact {fine.version}"
        shutil.copytree(source / "tokenizer", directory / "tokenizer")

        def write_graph() -> None:
            for path in source.glob(f"{MODEL_FILE}*"):
                shutil.copyfile(path, directory / path.name)
            unbound_attention(directory)

        return _make(directory, draft, report, answers, write_graph)


def _make(
    directory: Path,
    manifest: Manifest,
    report: Parity,
    answers: Reference | VectorReference,
    write_graph: Callable[[], None],
) -> Manifest:
    """From the reference's answers to a sealed artifact; the tokenizer lies there already."""
    target, engine = load_target_profile(manifest.target), report.engine
    proof = make_proof(manifest, answers)
    try:
        _check_tokens(directory, report, proof)
        write_graph()
        if target.precision in COARSE and target.shapes:
            with stage(f"calibrate and round to {target.precision}"):
                quantize_for_tensorrt(directory, manifest)
        else:
            quantize(directory, manifest)
        if _is_long(manifest, engine) and target.engine == engine:
            bound_attention(directory)
        with _bounded(directory, manifest, engine, within=directory) as proven:
            _check_outputs(proven, report, proof, manifest, engine)
    finally:
        write_report(directory, report)
    with stage("seal the artifact"):
        write_reference(directory, answers)
        manifest = seal(directory, msgspec.structs.replace(manifest, **proof.goldens(report)))
    with stage("open it as a server does"):
        open_once(directory, engine)
    return manifest


def _is_long(manifest: Manifest, engine: str) -> bool:
    return engine == "onnxruntime-cpu" and manifest.max_tokens > LONG


def _bounded(
    directory: Path, manifest: Manifest, engine: str, within: Path | None
) -> AbstractContextManager[Path]:
    """The artifact that `engine` can compute: what stands in for a GPU cannot hold the attention
    of long rows, so that it gets a copy in `within`."""
    stands_in = load_target_profile(manifest.target).engine != engine
    if stands_in and _is_long(manifest, engine):
        return bounded_copy(directory, within)
    return nullcontext(directory)


def _refuse_coarsening(fine: Manifest, target: TargetProfile, source: Path, out: Path) -> None:
    coarser = target.precision in _FROM_FLOATS and target.weights == "float32"
    if fine.precision != "fp32" or not coarser:
        raise ExportError(
            f"found an artifact in {fine.precision} and the target {target.name} in "
            f"{target.precision}, wanted one in fp32 and a CPU's target in "
            f"{', '.join(_FROM_FLOATS)}; use `rerank-export export` with the checkpoint"
        )
    if out.exists() and out.samefile(source):
        raise OutputRefused(f"{out} is the artifact that is read; name another --out")


def _write_graph(model: Architecture, target: TargetProfile, directory: Path) -> None:
    if target.weights != "float32":
        model.halve(getattr(torch, target.weights))
    move_to_onnx(model, directory)
    if target.operators == "onnxruntime-cuda":
        onnxruntime_cuda.adapt(directory)


def proving_engine(target: TargetProfile) -> str:
    """What a graph for `target` is proven on: the target's own engine, which for a plan is none
    yet. ONNX Runtime's CPU provider then stands in, and the plan climbs the rungs once built."""
    return target.engine if target.engine != "tensorrt" else "onnxruntime-cpu"


def verify(directory: Path, source: str | None, engine: str | None) -> Manifest:
    """Check an artifact's hashes and goldens, and with a checkpoint all three rungs again.

    Writes nothing in `directory`. Raises ArtifactError, EngineError or ExportError naming what
    differs.
    """
    manifest = read_manifest(directory)
    with stage("check hashes"):
        check_files(directory, manifest)
    if manifest.version != (wanted := version_of(manifest)):
        raise ManifestWrong("version", manifest.version, wanted)
    require_passed(read_report(directory))
    with stage("check goldens"):
        open_once(
            directory,
            engine
            or (None if manifest.plan else proving_engine(load_target_profile(manifest.target))),
        )
    if source is not None:
        _verify_against(directory, manifest, read_checkpoint(source), engine)
    return manifest


def _verify_against(
    directory: Path, manifest: Manifest, checkpoint: Checkpoint, engine: str | None
) -> None:
    target = load_target_profile(manifest.target)
    engine = engine or proving_engine(target)
    proof = make_proof(manifest, _ask_checkpoint(manifest, checkpoint))
    report = open_report(engine, target, random_weights=checkpoint.random_weights)
    _check_tokens(directory, report, proof)
    with _bounded(directory, manifest, engine, within=None) as proven:
        _check_outputs(proven, report, proof, manifest, engine)


def _ask_checkpoint(manifest: Manifest, checkpoint: Checkpoint) -> Reference | VectorReference:
    """The checkpoint's answers for a manifest whose facts it must bear out.

    Its weights are gone afterwards: two copies beside an engine are too many.
    """
    target = load_target_profile(manifest.target)
    profile = load_model_profile(manifest.profile)
    _refuse_other_kind(profile, manifest.profile, checkpoint)
    with stage("ask PyTorch about the parity texts"):
        model = load_model(checkpoint)
        vocabulary = checkpoint.config["vocab_size"]
        probe(model, vocabulary)
        tokenizer = _tokenizer(checkpoint, manifest.template, manifest.max_tokens)
        max_tokens = _max_tokens(manifest.max_tokens, profile, target, model, checkpoint)
        wanted = _draft(manifest.profile, target, checkpoint, model, tokenizer, max_tokens)
        _compare_facts(manifest, wanted)
        return ask(manifest, model, tokenizer, vocabulary)


def _ask_artifact(source: Path, fine: Manifest, draft: Manifest) -> Reference | VectorReference:
    """The answers of the proven artifact in `source`, tokenised by transformers all the same."""
    # First: it refuses what transformers would take.
    vocabulary = load_tokenizer(source / TOKENIZER_FILE).get_vocab_size()
    tokenizer = CheckpointTokenizer(source / "tokenizer", None, fine.template, fine.max_tokens)
    with stage("ask the artifact about the parity texts"):
        model = ArtifactModel(source, fine)
        try:
            return ask(draft, model, tokenizer, vocabulary)
        finally:
            model.close()


def _compare_facts(manifest: Manifest, wanted: Manifest) -> None:
    """Raise ManifestWrong for the first fact that the checkpoint does not bear out."""
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


def profile_for(architecture: str) -> str:
    names = model_profile_names()
    fitting = [n for n in names if architecture in load_model_profile(n).architectures]
    if len(fitting) != 1:
        raise ProfileError(
            f"found {len(fitting)} profiles for the architecture {architecture}, wanted one; "
            f"choose with --profile: {', '.join(names)}"
        )
    return fitting[0]


def _refuse_other_kind(profile: ModelProfile, name: str, checkpoint: Checkpoint) -> None:
    if profile.kind != checkpoint.kind:
        words = {"rank": "rerankers", "embed": "embedders"}
        raise ProfileError(
            f"profile {name} is for {words[profile.kind]}, but {checkpoint.architecture} is one of "
            f"the {words[checkpoint.kind]}; leave --profile out, or name one of its kind"
        )


def _refuse_other_family(profile: ModelProfile, name: str, model: Architecture) -> None:
    """A template is for models that read one text; the others' tokenizer joins the pair."""
    if (profile.template is not None) != model.templated:
        raise ProfileError(
            f"profile {name} {'has no' if profile.template is None else 'has a'} template, but the "
            f"checkpoint's model reads {'one text' if model.templated else 'two texts'}; leave "
            "--profile out, or name one of this family"
        )


def _prefixes(profile: ModelProfile, name: str, checkpoint: Checkpoint) -> dict[str, str]:
    """What is put before texts, by input type: the profile's, or else the checkpoint's own."""
    own = checkpoint.vectors.prefixes if checkpoint.vectors else {}
    if own and profile.prefixes and own != profile.prefixes:
        raise CheckpointRefused(
            f"config_sentence_transformers.json has the prompts {own}, profile {name} has "
            f"{profile.prefixes}; name the --profile of this family, or correct the file"
        )
    return own or profile.prefixes


def _tokenizer(
    checkpoint: Checkpoint, template: str | None, max_tokens: int
) -> CheckpointTokenizer:
    model_type = checkpoint.config.get("model_type")
    found = CheckpointTokenizer(checkpoint.directory, model_type, template, max_tokens)
    # Those of tokenizer.json are known to have rows; transformers reads other files too.
    refuse_unknown_ids(found.vocabulary(), checkpoint.config["vocab_size"])
    return found


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
                f"{where} of a text, but this family wants {'one' if wanted else 'none'}; check "
                "the post-processor in tokenizer.json, or name another --profile"
            )
    return specials


def _max_tokens(
    wished: int | None,
    profile: ModelProfile,
    target: TargetProfile,
    model: Architecture,
    checkpoint: Checkpoint,
) -> int:
    limit = min(profile.max_tokens, model.position_limit)
    if target.shapes:
        limit = min(limit, max(shapes.sequence[2] for shapes in target.shapes))
    if checkpoint.vectors and checkpoint.vectors.max_tokens:
        limit = min(limit, checkpoint.vectors.max_tokens)
    if wished is not None and wished > limit:
        raise CheckpointRefused(
            f"found a wish for {wished} tokens; profile, target and checkpoint allow {limit}; "
            "lower --max-tokens"
        )
    return wished or limit


def _draft(
    name: str,
    target: TargetProfile,
    checkpoint: Checkpoint,
    model: Architecture,
    tokenizer: CheckpointTokenizer,
    max_tokens: int,
) -> Manifest:
    """The manifest as far as it is known before anything was written."""
    profile = load_model_profile(name)
    return Manifest(
        schema=SCHEMA,
        kind=profile.kind,
        model_id=profile.id,
        profile=name.rsplit("/", 1)[-1],
        target=target.name,
        version="draft",
        template=profile.template,
        special_tokens=_special_tokens(profile, tokenizer, checkpoint.config["vocab_size"]),
        padding_side=profile.padding_side,
        max_tokens=max_tokens,
        pooling=model.pooling,
        temperature=model.temperature,
        causal=model.causal,
        normalize=model.normalize,
        dimensions=model.dimensions,
        precision=target.precision,
        inputs=list(model.inputs),
        outputs=[model.output],
        opset=onnxruntime_cuda.OPSET if target.operators == "onnxruntime-cuda" else OPSET,
        versions=package_versions(),
        hardware=None,
        files={},
        goldens=[],
        golden_tolerance=0.0,
        prefixes=_prefixes(profile, name, checkpoint),
        activation=checkpoint.activation,
    )


def _check_tokens(directory: Path, report: Parity, proof: Proof) -> None:
    proof.climb_tokens(report, load_tokenizer(directory / TOKENIZER_FILE))


def _check_outputs(
    directory: Path, report: Parity, proof: Proof, manifest: Manifest, engine: str
) -> None:
    with stage(f"prove parity on {engine}"):
        model = open_model(directory, manifest=manifest, engine=engine)
        try:
            proof.climb_outputs(report, model)
        finally:
            model.close()


def _refuse_tiny_limit(proof: Proof, max_tokens: int) -> None:
    if all(len(row.token_ids) >= max_tokens for row in proof.rows()):
        raise CheckpointRefused(
            f"found a limit of {max_tokens} tokens, into which no parity text fits uncut; raise "
            "--max-tokens"
        )
