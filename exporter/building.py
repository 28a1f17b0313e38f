"""`rerank-export build`: build and prove a TensorRT plan for this machine, beside its graph; of a
model that takes images one for each of its two graphs.

Needs neither the checkpoint nor PyTorch: the reference answers are in the artifact. Steps:
refuse what cannot be built → compile → check the rungs on the plan → parity.json → manifest.json,
last → rename into place.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec

from exporter.answers import Reference
from exporter.errors import PlanFailed
from exporter.parity import new_report
from exporter.progress import print_line, stage
from exporter.proof import Proof, make_proof
from exporter.reference_file import REFERENCE_FILE, read_reference
from exporter.report import Parity, read_report, require_passed, write_report
from exporter.seal import finish
from exporter.tensorrt_plan import Machine, compile_plan, this_machine
from exporter.workspace import link_files, refuse_foreign, workspace
from runtime.artifact import find_directory
from runtime.manifest import (
    MANIFEST_FILE,
    MODEL_FILE,
    PARITY_FILE,
    PLAN_FILE,
    VISION_FILE,
    VISION_PLAN_FILE,
    Manifest,
    Plan,
    check_files,
    read_manifest,
)
from runtime.outputs import file_place, refuse_inputs
from runtime.profile import TargetProfile, load_target_profile
from runtime.selection import image_targets, takes_images

ENGINE = "tensorrt"
# What the documentation names: rows of up to 512 tokens, and long ones too. Others are data.
USUAL_TARGETS = ("tensorrt-fp16", "tensorrt-fp16-4096")


def build(
    directory: Path,
    target_name: str | None,
    out: Path,
    timing_cache: Path | None = None,
    *,
    version_compatible: bool = False,
) -> Manifest:
    """Build model.plan of the artifact `directory`, in the artifact `out`; of a model that takes
    images vision.plan as well. `target_name` is None for the target of the plan that is there,
    or else of the export.

    `out` may be `directory`. `version_compatible` makes a plan that later versions of TensorRT's
    same major version run too, whatever the target says. Raises ExportError or ServingError; `out`
    then is as it was before.
    """
    directory = find_directory(directory)
    manifest = read_manifest(directory)
    # A plan that is there is renewed as it was: a shorter one would cut rows that it took.
    known = manifest.target if manifest.plan is None else manifest.plan.target
    target = load_target_profile(target_name or known)
    if version_compatible:
        target = msgspec.structs.replace(target, version_compatible=True)
    _refuse(manifest, target)
    machine = this_machine(target)
    refuse_foreign(out)
    if timing_cache is not None:
        refuse_inputs(file_place(timing_cache), directory, out)
    with stage("check hashes"):
        check_files(directory, manifest)
    require_passed(read_report(directory))
    draft = _draft(manifest, target, machine)
    proof = make_proof(draft, _reference(directory, manifest, target))
    with workspace(out) as place:
        _bring(directory, manifest, place)
        for graph, plan in _files(manifest):
            with stage(f"compile {plan} for {machine.gpu.name}"):
                compile_plan(
                    machine,
                    place / graph,
                    place / plan,
                    target,
                    timing_cache=timing_cache,
                    log=print_line,
                )
        report = _prove(place, draft, target, proof)
        proven = _with_tolerance(draft, report)
        return finish(place, proven, ENGINE, host_code=target.version_compatible)


def _refuse(manifest: Manifest, target: TargetProfile) -> None:
    if target.engine != ENGINE:
        raise PlanFailed(
            f"found target {target.name}, which runs on {target.engine} and has no plan, wanted "
            f"one of TensorRT, such as {' or '.join(USUAL_TARGETS)}; export the checkpoint for it"
        )
    if manifest.vision is not None and not takes_images(target):
        raise PlanFailed(
            f"found an artifact of a model that takes images and the target {target.name}, wanted "
            f"one of {', '.join(image_targets())}"
        )
    own = load_target_profile(manifest.target)
    if _graph_of(own) != _graph_of(target):
        raise PlanFailed(
            f"the graph was exported for {own.name} ({own.precision}, {own.operators} operators, "
            f"attention by {own.attention}), wanted {target.precision} in ONNX's own operators, "
            f"attention by {target.attention}; export the checkpoint with --target {target.name} "
            "first"
        )


def _graph_of(target: TargetProfile) -> tuple[str, ...]:
    """What the graph of a target depends on."""
    return target.precision, target.weights, target.operators, target.attention


def _files(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """The graphs of the artifact, each with the plan that is made of it."""
    if manifest.vision is not None:
        yield VISION_FILE, VISION_PLAN_FILE
    yield MODEL_FILE, PLAN_FILE


def _reference(directory: Path, manifest: Manifest, target: TargetProfile) -> Reference:
    """The answers about rows that the plan takes. Raises PlanFailed without any about images for a
    model that takes them."""
    longest = min(max(shapes.sequence[2] for shapes in target.shapes), manifest.max_tokens)
    found = read_reference(directory)
    if manifest.vision is not None and found.images is None:
        raise PlanFailed(
            f"found no answers about images in {REFERENCE_FILE}, wanted those that prove "
            f"{VISION_PLAN_FILE}; export the checkpoint again with this version"
        )
    within = found.within(longest)
    if manifest.vision is not None and within.images is None:
        raise PlanFailed(
            f"found the target {target.name}, whose rows of at most {longest} tokens hold no image "
            f"of one tile ({manifest.vision.tokens} tokens) beside a text; name one of longer rows"
        )
    return within


def _bring(directory: Path, manifest: Manifest, place: Path) -> None:
    """Copy all files but those that are written again."""
    again = {PLAN_FILE, VISION_PLAN_FILE, PARITY_FILE, MANIFEST_FILE}
    link_files(directory, place, manifest.files.keys() - again)
    shutil.copyfile(directory / PARITY_FILE, place / PARITY_FILE)


def _draft(manifest: Manifest, target: TargetProfile, machine: Machine) -> Manifest:
    plan = Plan(
        target=target.name,
        precision=target.precision,
        shapes=list(target.shapes),
        version_compatible=target.version_compatible,
        golden_tolerance=manifest.golden_tolerance,
        tiles=target.tiles if manifest.vision is not None else None,
    )
    return msgspec.structs.replace(manifest, plan=plan, hardware=machine.facts())


def _prove(place: Path, draft: Manifest, target: TargetProfile, proof: Proof) -> Parity:
    """Check the rungs on the plan, add them to parity.json, and return the plan's report."""
    report = read_report(place)
    random = report.rule == "random-weights"
    report.plan = new_report(ENGINE, target, report.witness, random_weights=random)
    report.plan.hardware |= msgspec.to_builtins(draft.hardware)
    proof.record_cut(report.plan)
    try:
        proof.check_tokens(report.plan, place)
        # A version-compatible plan has host code, safe here: this process made it.
        proof.check_engine(report.plan, place, host_code=target.version_compatible)
    finally:
        write_report(place, report)
    return report.plan


def _with_tolerance(draft: Manifest, report: Parity) -> Manifest:
    """Widen the golden tolerance: goldens are the graph's answers, the plan has its own error."""
    assert draft.plan is not None
    rungs = (report.rungs.get(name) for name in ("logits", "image logits"))
    moved = max(rung.max_abs_delta or 0.0 for rung in rungs if rung is not None)
    tolerance = draft.golden_tolerance + 2 * moved
    return msgspec.structs.replace(
        draft, plan=msgspec.structs.replace(draft.plan, golden_tolerance=tolerance)
    )
