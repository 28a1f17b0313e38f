"""Export, quantize and verify: the order of the steps and nothing else.

read → the witness's answers → token check → load → probe → ONNX → parity on the engine that will
serve → parity.json → goldens → manifest.json, last → rename into place
"""

import gc
import shutil
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import onnx
import torch
from onnx import TensorProto, helper

from exporter import onnxruntime_cuda
from exporter.answers import Reference, VectorReference, write_reference
from exporter.architectures.base import Architecture
from exporter.architectures.nemotron_vl import EMBEDS_INPUT, PIXELS_INPUT, NemotronVL
from exporter.artifact_model import RankArtifact, VectorArtifact
from exporter.checkpoint import Checkpoint, load_model, probe, read_checkpoint
from exporter.diagnosis import diagnose_model
from exporter.draft import Draft, draft, profile_for
from exporter.errors import (
    CheckpointRefused,
    ExportError,
    ManifestMismatch,
    NoWitness,
    OutputRefused,
    ParityFailed,
)
from exporter.image_answers import ask_images
from exporter.long_rows import LONG_ROW_TOKENS, chunk_attention, chunked_copy, unchunk_attention
from exporter.merged_files import refuse_other_adapter
from exporter.onnx_file import OPSET, Example, move_to_onnx
from exporter.own_reading import own_reading
from exporter.pad_token import drop_pad
from exporter.parity import LOW_PRECISIONS, new_report, package_versions
from exporter.progress import print_line, stage
from exporter.prompt import Prompt
from exporter.proof import Proof, make_proof
from exporter.quantization.static import quantize_for_tensorrt
from exporter.quantization.step import quantize
from exporter.recorded_args import recorded_args, requested_pooling
from exporter.reference import collect_answers
from exporter.report import Parity, read_report, require_passed, write_report
from exporter.seal import check_opening, seal, version_of
from exporter.tokens import CheckpointTokenizer
from exporter.tokens import load_tokenizer as load_checkpoint_tokenizer
from exporter.witness import rank_witness, vector_witness
from exporter.witness.adapters import Adapted
from exporter.witness.base import RankWitness, Witness
from exporter.workspace import refuse_foreign, workspace
from runtime.artifact import find_directory
from runtime.engines import open_engine
from runtime.manifest import (
    MODEL_FILE,
    SCHEMA,
    TOKENIZER_FILE,
    VISION_FILE,
    Manifest,
    check_files,
    is_witnessed,
    read_manifest,
)
from runtime.opening import open_model
from runtime.profile import (
    TargetProfile,
    load_target_profile,
)
from runtime.selection import VISION_ENGINES
from runtime.text import load_tokenizer

# Precisions whose graph is made from the float32 one.
_FROM_FLOATS = ("bf16", "int8", "int8-weights")
# Fields of a manifest that checkpoint and profiles decide.
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
    "vision",
)


@dataclass(frozen=True)
class ExportArgs:
    """Arguments of an export. `profile` is a name or the path of a user's own, `target` a name.
    `max_tokens`, `template`, `pooling` (avg, cls or last) and `prefixes` by input type are None for
    what the checkpoint says; `adapter` is the folder or hub id of an adapter to merge.

    `engine` proves the artifact, None for the target's own. `strict` refuses unknown files and keys
    of the checkpoint, and scores that barely differ; `unwitnessed` accepts a checkpoint that no
    witness can load.
    """

    profile: str | None = None
    target: str = "cpu-fp32"
    max_tokens: int | None = None
    engine: str | None = None
    template: Prompt | None = None
    pooling: str | None = None
    prefixes: dict[str, str] | None = None
    strict: bool = False
    unwitnessed: bool = False
    adapter: str | None = None


def ask_witness(
    found: Draft, checkpoint: Checkpoint, *, unwitnessed: bool = False
) -> Reference | VectorReference:
    """The answers that prove an artifact of this draft.

    The witness is freed afterwards, as two copies of the weights are too many. Without a witness,
    and if `unwitnessed` allows it, the exporter's own model answers and is named as such. Raises
    NoWitness and CheckpointRefused.
    """
    with stage("ask the witness about the parity texts"):
        try:
            answers = _answers(found, checkpoint, _witness(found, checkpoint))
        except NoWitness as error:
            if not unwitnessed:
                raise NoWitness(
                    f"found no witness for the scores of this checkpoint: {error}; repair the "
                    "folder, or export it anyway with --unwitnessed: wherever artifacts are called "
                    "proven, this one is then called not witnessed"
                ) from error
            why = str(error)
        else:
            gc.collect()  # the witness is gone, but for what its hooks refer to
            return answers
        model = load_model(checkpoint)
        own = own_reading(model, found.tokenizer, found.manifest, why)
        return _answers(found, checkpoint, own)


def _answers(found: Draft, checkpoint: Checkpoint, witness: Witness) -> Reference | VectorReference:
    _refuse_other_activation(found.manifest, witness)
    vocabulary = checkpoint.config["vocab_size"]
    answers = collect_answers(found.manifest, witness, found.tokenizer, vocabulary)
    if found.manifest.vision is not None:
        answers = replace(answers, images=ask_images(found.manifest, witness))
    return answers


def _refuse_other_activation(manifest: Manifest, witness: Witness) -> None:
    theirs = witness.activation if isinstance(witness, RankWitness) else None
    if theirs is not None and theirs != manifest.activation:
        raise CheckpointRefused(
            f"{witness.name} maps logits to a relevance by {theirs}, the exporter reads "
            f"{manifest.activation} in the folder; name one activation_fn in "
            "config_sentence_transformers.json or config.json"
        )


# Returns the answers that prove an artifact of a draft: `ask_witness`, or a cache of it.
AskWitness = Callable[..., Reference | VectorReference]


def export(source: str, out: Path, args: ExportArgs, ask: AskWitness = ask_witness) -> Manifest:
    """Export the checkpoint `source` into the artifact directory `out`, proven by the answers of
    `ask`.

    Raises ExportError or ServingError; `out` then is as it was before.
    """
    target = load_target_profile(args.target)
    engine = args.engine or proving_engine(target)
    refuse_foreign(out)
    _require_engine(engine)
    checkpoint = read_checkpoint(source, args.adapter, strict=args.strict, pooling=args.pooling)
    profile_name = args.profile or profile_for(checkpoint.architecture)
    _refuse_blind_target(target, checkpoint)
    with workspace(out) as directory:
        found = draft(
            checkpoint,
            profile_name,
            target,
            max_tokens=args.max_tokens,
            template=args.template,
            prefixes=args.prefixes,
            strict=args.strict,
        )
        manifest, tokenizer = found.manifest, found.tokenizer
        answers = ask(found, checkpoint, unwitnessed=args.unwitnessed)
        proof = make_proof(manifest, answers)
        _refuse_tiny_limit(proof, manifest.max_tokens)
        if args.strict and (flat := proof.flat()):
            raise CheckpointRefused(f"{flat} It is refused because of --strict")
        report = new_report(
            engine, target, answers.witness, random_weights=checkpoint.random_weights
        )
        tokenizer.save(directory / "tokenizer")

        def write_graph() -> None:
            with stage("load the checkpoint"):
                model = load_model(checkpoint)
                probe(model, checkpoint.config["vocab_size"])
            with stage("write the ONNX graph"):
                _write_graph(model, target, directory)

        try:
            return _make(directory, manifest, report, answers, write_graph)
        except ParityFailed as error:
            if error.rung != "tokens" and target.precision == "fp32":
                own = own_reading(load_model(checkpoint), tokenizer, manifest, "to explain")
                error.add_note(diagnose_model(own.values, answers))
            raise


def quantize_artifact(
    source: Path,
    out: Path,
    target_name: str,
    *,
    checkpoint: str | None = None,
    adapter: str | None = None,
    engine: str | None = None,
) -> Manifest:
    """Make an artifact of a lower precision from the proven fp32 artifact `source`.

    It is proven against the `checkpoint` with the `adapter`, or without a checkpoint against the
    scores of `source` (parity.json records that); on `engine`, None for the target's own. Raises
    ExportError or ServingError; `out` then is as it was before.
    """
    target = load_target_profile(target_name)
    engine = engine or target.engine
    source = find_directory(source)
    source_manifest = read_manifest(source)
    proven = checkpoint is not None
    _refuse_quantization(source_manifest, target, source, out, with_checkpoint=proven)
    refuse_foreign(out)
    _require_engine(engine)
    with stage("check hashes"):
        check_files(source, source_manifest)
    require_passed(read_report(source))
    # The result is proven for no more than its source.
    schema = source_manifest.schema if checkpoint is None else SCHEMA
    quantized = msgspec.structs.replace(
        source_manifest,
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
            answers = _ask_artifact(source, source_manifest, quantized)
        else:
            found = read_checkpoint(checkpoint, adapter, pooling=requested_pooling(source_manifest))
            random_weights = found.random_weights
            answers = _ask_checkpoint(quantized, found)
        report = new_report(engine, target, answers.witness, random_weights=random_weights)
        shutil.copytree(source / "tokenizer", directory / "tokenizer")

        def write_graph() -> None:
            for path in (*source.glob(f"{MODEL_FILE}*"), *source.glob(f"{VISION_FILE}*")):
                shutil.copyfile(path, directory / path.name)
            unchunk_attention(directory)

        return _make(directory, quantized, report, answers, write_graph)


def _make(
    directory: Path,
    manifest: Manifest,
    report: Parity,
    answers: Reference | VectorReference,
    write_graph: Callable[[], None],
) -> Manifest:
    """From the reference's answers to a sealed artifact; `directory` already has the tokenizer."""
    target, engine = load_target_profile(manifest.target), report.engine
    proof = make_proof(manifest, answers)
    proof.record_cut(report, manifest.max_tokens)
    if flat := proof.flat():
        report.flat = flat
        print_line(flat)
    try:
        _check_tokens(directory, report, proof)
        write_graph()
        if target.precision in LOW_PRECISIONS and target.shapes:
            with stage(f"calibrate and round to {target.precision}"):
                quantize_for_tensorrt(directory, manifest)
        else:
            quantize(directory, manifest)
        if _has_long_rows(manifest, engine) and target.engine == engine:
            chunk_attention(directory)
        with _chunked(directory, manifest, engine, within=directory) as proven:
            _check_outputs(proven, report, proof, manifest, engine)
    finally:
        write_report(directory, report)
    with stage("seal the artifact"):
        write_reference(directory, answers)
        sealed = {"witness": answers.witness, **proof.goldens(report)}
        manifest = seal(directory, msgspec.structs.replace(manifest, **sealed))
    with stage("open it as a server does"):
        check_opening(directory, engine)
    return manifest


def _has_long_rows(manifest: Manifest, engine: str) -> bool:
    return engine == "onnxruntime-cpu" and manifest.max_tokens > LONG_ROW_TOKENS


def _chunked(
    directory: Path, manifest: Manifest, engine: str, within: Path | None
) -> AbstractContextManager[Path]:
    """The artifact that `engine` can compute: the CPU, standing in for a GPU, lacks the memory for
    the attention of long rows and gets a chunked copy in `within`."""
    stands_in = load_target_profile(manifest.target).engine != engine
    if stands_in and _has_long_rows(manifest, engine):
        return chunked_copy(directory, within)
    return nullcontext(directory)


def _refuse_quantization(
    source_manifest: Manifest,
    target: TargetProfile,
    source: Path,
    out: Path,
    *,
    with_checkpoint: bool,
) -> None:
    from_floats = target.precision in _FROM_FLOATS and target.weights == "float32"
    if source_manifest.precision != "fp32" or not from_floats:
        raise ExportError(
            f"found an artifact in {source_manifest.precision} and the target {target.name} in "
            f"{target.precision}, wanted one in fp32 and a CPU's target in "
            f"{', '.join(_FROM_FLOATS)}; use `rerank-export export` with the checkpoint"
        )
    if source_manifest.vision is not None and not with_checkpoint:
        raise ExportError(
            "found an artifact of a model that takes images, whose own answers are not kept; name "
            "the --checkpoint to prove against"
        )
    if out.exists() and out.samefile(source):
        raise OutputRefused(f"{out} is the artifact that is read; name another --out")


def _write_graph(model: Architecture, target: TargetProfile, directory: Path) -> None:
    if target.weights == "float32":
        model.body.narrow = True
    else:
        # On a GPU only once a card has shown that attention of one row stays its fast kernel.
        model.halve(getattr(torch, target.weights))
    if isinstance(model, NemotronVL):
        embeds = _several(model.blank_inputs(torch.ones(2, 5))[EMBEDS_INPUT])
        tiles = _several(torch.empty(0, 3, model.tile_size, model.tile_size))
        move_to_onnx(model.take_tower(), directory, VISION_FILE, {PIXELS_INPUT: tiles})
        move_to_onnx(model, directory, examples={EMBEDS_INPUT: embeds})
    else:
        move_to_onnx(model, directory)
    if target.operators == "onnxruntime-cuda":
        onnxruntime_cuda.adapt(directory)


def _refuse_blind_target(target: TargetProfile, checkpoint: Checkpoint) -> None:
    if checkpoint.vision is not None and target.engine not in VISION_ENGINES:
        raise ExportError(
            f"found the target {target.name}, which runs on {target.engine}, wanted one on "
            f"{', '.join(VISION_ENGINES)}: {checkpoint.architecture} takes images, which others do "
            "not compute"
        )


def _several(none: torch.Tensor) -> Example:
    """Two tiles like those of `none`."""
    return Example(torch.zeros(2, *none.shape[1:]), {0: "tiles"})


def proving_engine(target: TargetProfile) -> str:
    """The engine that proves a graph for `target`: its own. For a plan, which is not built yet, it
    is ONNX Runtime's CPU provider, and the plan is proven once it is built."""
    return target.engine if target.engine != "tensorrt" else "onnxruntime-cpu"


def verify(
    directory: Path, source: str | None, engine: str | None, adapter: str | None = None
) -> Manifest:
    """Check an artifact's hashes and goldens, and with the checkpoint `source`, and the `adapter`
    that was merged into it, all three rungs again.

    Writes nothing in `directory`. Raises ArtifactError, EngineError or ExportError naming what
    differs.
    """
    directory = find_directory(directory)
    manifest = read_manifest(directory)
    with stage("check hashes"):
        check_files(directory, manifest)
    if manifest.version != (wanted := version_of(manifest)):
        raise ManifestMismatch("version", manifest.version, wanted)
    require_passed(read_report(directory))
    with stage("check goldens"):
        check_opening(
            directory,
            engine
            or (None if manifest.plan else proving_engine(load_target_profile(manifest.target))),
        )
    if source is not None:
        checkpoint = read_checkpoint(source, adapter, pooling=requested_pooling(manifest))
        _verify_against(directory, manifest, checkpoint, engine)
    return manifest


def _verify_against(
    directory: Path, manifest: Manifest, checkpoint: Checkpoint, engine: str | None
) -> None:
    target = load_target_profile(manifest.target)
    engine = engine or proving_engine(target)
    answers = _ask_checkpoint(manifest, checkpoint)
    proof = make_proof(manifest, answers)
    report = new_report(engine, target, answers.witness, random_weights=checkpoint.random_weights)
    _check_tokens(directory, report, proof)
    with _chunked(directory, manifest, engine, within=None) as proven:
        _check_outputs(proven, report, proof, manifest, engine)


def _ask_checkpoint(manifest: Manifest, checkpoint: Checkpoint) -> Reference | VectorReference:
    """The witness's answers for a manifest whose facts must match the checkpoint."""
    refuse_other_adapter(manifest, checkpoint)
    target, args = load_target_profile(manifest.target), recorded_args(manifest)
    found = draft(checkpoint, manifest.profile, target, **args)
    if manifest.max_tokens > (limit := found.manifest.max_tokens):
        raise ManifestMismatch("max_tokens", manifest.max_tokens, f"at most {limit}")
    if manifest.max_tokens < limit:
        args["max_tokens"] = manifest.max_tokens
        found = draft(checkpoint, manifest.profile, target, **args)
    _compare_facts(manifest, found.manifest)
    unwitnessed = not is_witnessed(manifest)
    return ask_witness(replace(found, manifest=manifest), checkpoint, unwitnessed=unwitnessed)


def _witness(found: Draft, checkpoint: Checkpoint) -> Witness:
    where = checkpoint.root, checkpoint.directory, checkpoint.config
    own = checkpoint.adapter
    adapted = None if own is None else Adapted(checkpoint.base, own.directory)
    if checkpoint.vectors is None:
        return rank_witness(*where, found.template, adapted)
    requested = found.prefixes, checkpoint.vectors.requested_pooling
    return vector_witness(*where, found.published, *requested, adapted)


def _ask_artifact(
    source: Path, source_manifest: Manifest, quantized: Manifest
) -> Reference | VectorReference:
    """The answers of the proven artifact in `source`, tokenised by transformers as well."""
    # First, as it refuses files that transformers would accept.
    vocabulary = load_tokenizer(source / TOKENIZER_FILE).get_vocab_size()
    place = source / "tokenizer"
    loaded = load_checkpoint_tokenizer(place, None)
    dropped = drop_pad(loaded, vocabulary)  # the pad token, if transformers' class adds it again
    tokenizer = CheckpointTokenizer(
        loaded, place, source_manifest.template, source_manifest.max_tokens, dropped
    )
    kind = RankArtifact if source_manifest.kind == "rank" else VectorArtifact
    with stage("ask the artifact about the parity texts"):
        artifact = kind(source, source_manifest, tokenizer)
        try:
            return collect_answers(quantized, artifact, tokenizer, vocabulary)
        finally:
            artifact.close()


def _compare_facts(manifest: Manifest, wanted: Manifest) -> None:
    """Raise ManifestMismatch for the first fact that differs from the checkpoint."""
    for fact in _FACTS:
        if getattr(manifest, fact) != getattr(wanted, fact):
            raise ManifestMismatch(fact, getattr(manifest, fact), getattr(wanted, fact))


def _require_engine(name: str) -> None:
    """Open the engine on a graph of one node, so that missing hardware is found before any work."""
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    same = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [value], [same])
    opset = helper.make_opsetid("", OPSET)
    with tempfile.TemporaryDirectory() as directory:
        # IR version 10 fits engines of this opset; by default the library writes its newest.
        model = helper.make_model(graph, opset_imports=[opset], ir_version=10)
        onnx.save(model, Path(directory) / MODEL_FILE)
        open_engine(name, Path(directory)).close()


def _check_tokens(directory: Path, report: Parity, proof: Proof) -> None:
    proof.check_tokens(report, load_tokenizer(directory / TOKENIZER_FILE))


def _check_outputs(
    directory: Path, report: Parity, proof: Proof, manifest: Manifest, engine: str
) -> None:
    with stage(f"prove parity on {engine}"):
        model = open_model(directory, manifest=manifest, engine=engine)
        try:
            proof.check_outputs(report, model)
        finally:
            model.close()


def _refuse_tiny_limit(proof: Proof, max_tokens: int) -> None:
    if all(len(row.token_ids) >= max_tokens for row in proof.rows()):
        raise CheckpointRefused(
            f"found a limit of {max_tokens} tokens, into which no parity text fits uncut; raise "
            "--max-tokens"
        )
