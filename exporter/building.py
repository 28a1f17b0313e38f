"""`rerank-export build`: build and prove a TensorRT plan for this machine, beside its graph.

Needs neither the checkpoint nor PyTorch: the reference answers are in the artifact. Steps:
refuse what cannot be built → compile → check the rungs on the plan → parity.json → manifest.json,
last → rename into place.
"""

import shutil
from pathlib import Path

import msgspec

from exporter.answers import read_reference
from exporter.errors import PlanFailed
from exporter.parity import new_report
from exporter.progress import print_line, stage
from exporter.proof import Proof, make_proof
from exporter.report import Parity, read_report, require_passed, write_report
from exporter.seal import finish
from exporter.tensorrt_plan import Machine, compile_plan, this_machine
from exporter.workspace import link_or_copy, refuse_foreign, workspace
from runtime.artifact import find_directory
from runtime.manifest import (
    MANIFEST_FILE,
    MODEL_FILE,
    PARITY_FILE,
    PLAN_FILE,
    Manifest,
    Plan,
    check_files,
    read_manifest,
)
from runtime.outputs import file_place, refuse_inputs
from runtime.profile import TargetProfile, load_target_profile

ENGINE = "tensorrt"


def build(
    directory: Path,
    target_name: str,
    out: Path,
    timing_cache: Path | None = None,
    *,
    version_compatible: bool = False,
) -> Manifest:
    """Build model.plan for `target_name` from the artifact `directory`, into the artifact `out`.

    `out` may be `directory`. `version_compatible` makes a plan that later versions of TensorRT's
    same major version run too, whatever the target says. Raises ExportError or ServingError; `out`
    then is as it was before.
    """
    target = load_target_profile(target_name)
    if version_compatible:
        target = msgspec.structs.replace(target, version_compatible=True)
    directory = find_directory(directory)
    manifest = read_manifest(directory)
    _refuse(manifest, target)
    machine = this_machine(target)
    refuse_foreign(out)
    if timing_cache is not None:
        refuse_inputs(file_place(timing_cache), directory, out)
    with stage("check hashes"):
        check_files(directory, manifest)
    require_passed(read_report(directory))
    longest = max(shapes.sequence[2] for shapes in target.shapes)
    reference = read_reference(directory).within(min(longest, manifest.max_tokens))
    with workspace(out) as place:
        _bring(directory, manifest, place)
        with stage(f"compile {PLAN_FILE} for {machine.gpu.name}"):
            compile_plan(
                machine,
                place / MODEL_FILE,
                place / PLAN_FILE,
                target,
                timing_cache=timing_cache,
                log=print_line,
            )
        draft = _draft(manifest, target, machine)
        report = _prove(place, draft, target, make_proof(draft, reference))
        proven = _with_tolerance(draft, report)
        return finish(place, proven, ENGINE, host_code=target.version_compatible)


def _refuse(manifest: Manifest, target: TargetProfile) -> None:
    if target.engine != ENGINE:
        raise PlanFailed(
            f"target {target.name} runs on {target.engine} and has no plan; name a target of "
            "TensorRT"
        )
    if manifest.vision is not None:
        raise PlanFailed(
            "found an artifact of a model that takes images, for which no plans are built; serve "
            "it with the target cuda-fp16"
        )
    own = load_target_profile(manifest.target)
    same = (own.precision, own.weights, own.operators)
    if same != (target.precision, target.weights, target.operators):
        raise PlanFailed(
            f"the graph was exported for {own.name} ({own.precision}, {own.operators} operators), "
            f"wanted {target.precision} in ONNX's own operators; export the checkpoint with "
            f"--target {target.name} first"
        )


def _bring(directory: Path, manifest: Manifest, place: Path) -> None:
    """Copy all files but those that are written again."""
    for name in manifest.files:
        if name in (PLAN_FILE, PARITY_FILE, MANIFEST_FILE):
            continue
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        link_or_copy(directory / name, place / name)
    shutil.copyfile(directory / PARITY_FILE, place / PARITY_FILE)


def _draft(manifest: Manifest, target: TargetProfile, machine: Machine) -> Manifest:
    plan = Plan(
        target=target.name,
        precision=target.precision,
        shapes=list(target.shapes),
        version_compatible=target.version_compatible,
        golden_tolerance=manifest.golden_tolerance,
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
    moved = report.rungs["logits"].max_abs_delta or 0.0
    tolerance = draft.golden_tolerance + 2 * moved
    return msgspec.structs.replace(
        draft, plan=msgspec.structs.replace(draft.plan, golden_tolerance=tolerance)
    )
