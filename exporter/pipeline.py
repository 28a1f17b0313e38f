"""Export, quantize and verify: the order of the steps and nothing else.

read → draft → the witness's answers → token check → load → probe → ONNX → parity on the engine that
will serve → parity.json → goldens → manifest.json, last → rename into place
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec

from exporter.checkpoint import load_model, read_checkpoint
from exporter.diagnosis import diagnose_model
from exporter.draft import ExportArgs as ExportArgs
from exporter.draft import draft
from exporter.errors import ManifestMismatch, ParityFailed
from exporter.long_rows import chunk_attention
from exporter.memory_need import memory_need
from exporter.model_profile import choose_profile
from exporter.parity import new_report, package_versions
from exporter.progress import print_line, stage
from exporter.proof import Proof, make_proof
from exporter.proving_engine import computable, needs_chunks, proving_engine, require_engine
from exporter.redraft import redraft, requested_pooling
from exporter.reference import AskWitness, ask_artifact, ask_witness
from exporter.reference_file import write_reference
from exporter.refusals import refuse_blind_target, refuse_quantization, refuse_weak_proof
from exporter.report import Parity, read_report, require_passed, write_report
from exporter.seal import check_opening, finish, version_of
from exporter.stand_in import own_reading
from exporter.target_graph import MakeGraph, bring_graph, make_graph, round_graph
from exporter.workspace import refuse_foreign, workspace
from runtime.artifact import find_directory
from runtime.manifest import (
    SCHEMA,
    Manifest,
    check_files,
    is_witnessed,
    read_manifest,
)
from runtime.profile import TargetProfile, load_target_profile


def export(
    source: str,
    out: Path,
    args: ExportArgs,
    ask: AskWitness = ask_witness,
    make: MakeGraph = make_graph,
) -> Manifest:
    """Export the checkpoint `source` into the artifact directory `out`: the graph of `make`, proven
    by the answers of `ask`.

    Raises ExportError or ServingError; `out` then is as it was before.
    """
    target = load_target_profile(args.target)
    engine = args.engine or proving_engine(target)
    refuse_foreign(out)
    require_engine(engine)
    checkpoint = read_checkpoint(source, args.adapter, strict=args.strict, pooling=args.pooling)
    profile = choose_profile(args.profile, checkpoint.architecture, checkpoint.kind)
    refuse_blind_target(target, checkpoint)
    with workspace(out) as directory:
        found = draft(checkpoint, profile, target, args)
        checkpoint = found.checkpoint
        if need := memory_need(checkpoint.weights, target.precision):
            print_line(need)
        answers = ask(found, checkpoint, unwitnessed=args.unwitnessed)
        proof = make_proof(found.manifest, answers)
        refuse_weak_proof(proof, found.manifest.max_tokens, strict=args.strict)
        report = new_report(
            engine, target, answers.witness, random_weights=checkpoint.random_weights
        )
        found.tokenizer.save(directory / "tokenizer")

        def write() -> None:
            make(checkpoint, found.manifest, target, directory)

        try:
            return _make(directory, found.manifest, target, report, proof, write)
        except ParityFailed as error:
            if error.rung != "tokens" and target.precision == "fp32":
                model = load_model(checkpoint)
                own = own_reading(model, found.tokenizer, found.manifest, "to explain")
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
    scores of `source` and the answers about images that it keeps (parity.json records that); on
    `engine`, None for the target's own. Raises ExportError or ServingError; `out` then is as it was
    before.
    """
    target = load_target_profile(target_name)
    engine = engine or target.engine
    source = find_directory(source)
    manifest = read_manifest(source)
    refuse_quantization(manifest, target, source, out)
    refuse_foreign(out)
    require_engine(engine)
    with stage("check hashes"):
        check_files(source, manifest)
    require_passed(read_report(source))
    quantized = msgspec.structs.replace(
        manifest,
        # The result is proven for no more than its source.
        schema=manifest.schema if checkpoint is None else SCHEMA,
        target=target.name,
        precision=target.precision,
        version="draft",
        versions=package_versions(),
        files={},
    )
    random_weights = False
    with workspace(out) as directory:
        if checkpoint is None:
            own_engine = load_target_profile(manifest.target).engine
            answers = ask_artifact(source, manifest, own_engine, quantized)
        else:
            read = read_checkpoint(checkpoint, adapter, pooling=requested_pooling(manifest))
            random_weights = read.random_weights
            found = redraft(quantized, read, target)
            answers = ask_witness(found, read, unwitnessed=not is_witnessed(quantized))
        report = new_report(engine, target, answers.witness, random_weights=random_weights)
        shutil.copytree(source / "tokenizer", directory / "tokenizer")

        def write() -> None:
            bring_graph(source, directory)
            round_graph(directory, quantized, target)

        proof = make_proof(quantized, answers)
        return _make(directory, quantized, target, report, proof, write)


def _make(
    directory: Path,
    manifest: Manifest,
    target: TargetProfile,
    report: Parity,
    proof: Proof,
    write: Callable[[], None],
) -> Manifest:
    """From the reference's answers to a sealed artifact; `directory` already has the tokenizer, and
    `write` puts the graph there."""
    proof.record_cut(report)
    if flat := proof.flat():
        report.flat = flat
        print_line(flat)
    try:
        proof.check_tokens(report, directory)
        write()
        if target.engine == report.engine and needs_chunks(manifest, report.engine):
            chunk_attention(directory)
        with computable(directory, manifest, target, report.engine, within=directory) as proven:
            proof.check_engine(report, proven)
    finally:
        write_report(directory, report)
    write_reference(directory, proof.reference)
    facts = {"witness": proof.reference.witness, **proof.goldens(report)}
    return finish(directory, msgspec.structs.replace(manifest, **facts), report.engine)


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
    target = load_target_profile(manifest.target)
    usual = proving_engine(target)
    with stage("check goldens"):
        check_opening(directory, engine or (None if manifest.plan else usual))
    if source is None:
        return manifest
    engine = engine or usual
    checkpoint = read_checkpoint(source, adapter, pooling=requested_pooling(manifest))
    found = redraft(manifest, checkpoint, target)
    answers = ask_witness(found, checkpoint, unwitnessed=not is_witnessed(manifest))
    proof = make_proof(manifest, answers)
    report = new_report(engine, target, answers.witness, random_weights=checkpoint.random_weights)
    proof.check_tokens(report, directory)
    with computable(directory, manifest, target, engine, within=None) as proven:
        proof.check_engine(report, proven)
    return manifest
