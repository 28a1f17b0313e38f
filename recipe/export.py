"""Stage 4, export: turn the fine-tuned checkpoint into a proven artifact, and measure its drift."""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from recipe.config import ExportConfig
from recipe.durable import read_json, write_json
from recipe.errors import BadConfig, BadInput, OutputRefused
from recipe.evaluate import open_artifact, refuse_other_template
from recipe.evaluation.results import read_results
from recipe.evaluation.scorers import fingerprint
from recipe.evaluation.session import add_checked_column, open_session
from recipe.progress import Log
from recipe.stage import Input, Stage
from runtime.manifest import MANIFEST_FILE, Manifest, read_manifest
from runtime.profile import load_target_profile, target_profile_names

# Our target profiles for quant_cfg, export_dtype and export_to_trt.
_TARGETS = {
    (None, "fp32", False): "cpu-fp32",
    (None, "fp16", False): "cuda-fp16",
    ("int8_sq", "fp32", False): "cpu-int8",
    (None, "fp32", True): "tensorrt-fp16",
    (None, "fp16", True): "tensorrt-fp16",
    ("fp8", "fp32", True): "tensorrt-fp8",
    ("fp8", "fp16", True): "tensorrt-fp8",
}


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """onnx.json or tensorrt.json: source and result. `checkpoint` is a hash of its files.

    `version` is the artifact's, None until it is finished.
    """

    checkpoint: str
    profile: str
    target: str
    column: str
    artifact: str
    version: str | None


def _inputs(settings: ExportConfig) -> list[Input]:
    inputs = [Input(Path(settings.model_path), "fine-tuned checkpoint", "finetune")]
    if settings.eval_dir is not None:
        inputs.append(Input(Path(settings.eval_dir) / "setting.json", "evaluation of it", "eval"))
    return inputs


def _check_values(settings: ExportConfig) -> None:
    _target(settings)
    if settings.attn_implementation == "flash_attention_2":
        raise BadConfig(
            "found attn_implementation = flash_attention_2, wanted eager or sdpa: both give the "
            "graph that standard ONNX operators can hold"
        )


def _check(settings: ExportConfig) -> None:
    _check_opset(settings)
    _check_prompt(settings)
    _refuse_unmeasured(settings)


def _check_opset(settings: ExportConfig) -> None:
    from exporter.onnx_file import OPSET  # late: torch and onnx

    if settings.opset > OPSET:
        raise BadConfig(
            f"found opset = {settings.opset}, wanted at most {OPSET}, the one that is written"
        )


def _check_prompt(settings: ExportConfig) -> None:
    """Refuse another prompt than the one that was used for training and evaluation."""
    from exporter.draft import draft  # late: torch
    from exporter.model_profile import choose_profile
    from recipe.training.checkpoint import read_whole

    refuse_other_template(settings.model_path, settings.prompt_template)
    checkpoint = read_whole(settings.model_path)
    target = load_target_profile(_target(settings))
    profile = choose_profile(settings.model_profile, checkpoint.architecture, checkpoint.kind)
    found = draft(checkpoint, profile, target).manifest
    if found.prompt != settings.prompt_template:
        origin = found.origins.get("template", "the family, whose tokenizer joins the pair")
        raise BadConfig(
            f"found prompt_template = {settings.prompt_template!r}, but the checkpoint is exported "
            f"with {found.prompt!r} ({origin}); wanted the same in finetune, eval and export"
        )


def _refuse_unmeasured(settings: ExportConfig) -> None:
    """Refuse a checkpoint other than the one measured as the column `finetuned`."""
    if settings.eval_dir is None:
        return
    session = open_session(Path(settings.eval_dir))
    if session.setting.prompt_template != settings.prompt_template:
        raise BadConfig(
            f"found prompt_template = {settings.prompt_template!r}, but eval measured with "
            f"{session.setting.prompt_template!r}; wanted the same in finetune, eval and export"
        )
    column = read_results(session.directory).get("finetuned")
    found = fingerprint(Path(settings.model_path))
    if column is None or column.identity != found:
        measured = "none" if column is None else f"{column.identity} ({column.source})"
        raise BadInput(
            f"found the checkpoint {found} ({settings.model_path}), but eval measured {measured} "
            "as finetuned; run the stage eval on this checkpoint first"
        )


def _profile(settings: ExportConfig) -> str:
    from exporter.model_profile import choose_profile  # late: torch
    from recipe.training.checkpoint import read_whole

    if settings.model_profile is not None:
        return settings.model_profile
    whole = read_whole(settings.model_path)
    return choose_profile(None, whole.architecture, whole.kind).name


def _target(settings: ExportConfig) -> str:
    asked = (settings.quant_cfg, settings.export_dtype, settings.export_to_trt)
    known = target_profile_names()
    found = settings.target or _TARGETS.get(asked)
    if found not in known:
        words = f"quant_cfg = {asked[0]}, export_dtype = {asked[1]}, export_to_trt = {asked[2]}"
        raise BadConfig(
            f"found {f'target = {settings.target}' if settings.target else words}, for which "
            f"there is no target{f' ({found} is not there yet)' if found else ''}; wanted one of: "
            f"{', '.join(known)}"
        )
    return found


def _forms(settings: ExportConfig) -> dict[str, str]:
    """Column → target of what is made: beside a plan, the graph that a server needs without it."""
    target = _target(settings)
    if not target.startswith("tensorrt"):
        return {"onnx": target}
    plan = {"tensorrt": target}
    if settings.target is not None:
        return plan
    return {"onnx": _TARGETS[None, settings.export_dtype, False], **plan}


def _out(settings: ExportConfig, column: str) -> Path:
    return Path(settings.trt_model_path if column == "tensorrt" else settings.onnx_export_path)


def _plan(settings: ExportConfig) -> list[str]:
    lines = []
    for column, target in _forms(settings).items():
        out = _out(settings, column)
        lines.append(f"export {settings.model_path} for {target} to {out}")
        if settings.eval_dir is not None:
            lines.append(f"add the column {column} to {settings.eval_dir} and check for drift")
    return lines


def _run(settings: ExportConfig, log: Log) -> None:
    forms = _forms(settings)
    if "tensorrt" in forms:  # before the first export, which takes long
        from exporter.tensorrt_plan import this_machine

        this_machine(load_target_profile(forms["tensorrt"]))
    for column, target in forms.items():
        _export(settings, column, target, log)
        if settings.eval_dir is not None:
            _measure(settings, column, log)


def _measure(settings: ExportConfig, column: str, log: Log) -> None:
    out = _out(settings, column)
    add_checked_column(
        Path(str(settings.eval_dir)),
        column,
        lambda setting: open_artifact(column, out, setting.prompt_template, setting.max_length),
        log,
    )


def _export(settings: ExportConfig, column: str, target: str, log: Log) -> None:
    """Export, or continue an interrupted export.

    The settings are written before anything is made, so that an artifact in its folder is known to
    be this stage's own, even if its process was killed.
    """
    from exporter.building import build
    from exporter.onnx_file import OPSET
    from exporter.pipeline import ExportArgs, export

    out, file, planned = _out(settings, column), _made_file(settings, column), column == "tensorrt"
    begun = Made(
        checkpoint=fingerprint(Path(settings.model_path)),
        profile=_profile(settings),
        target=target,
        column=column,
        artifact=str(out),
        version=None,
    )
    manifest = _own(file, begun)
    if manifest is not None and (manifest.plan is not None or not planned):
        log(f"{out} was already exported")
    else:
        if manifest is not None:
            log(f"the graph in {out} was already exported; build its plan")
        else:
            if settings.opset != OPSET:
                log(f"opset {settings.opset} was asked for at least, {OPSET} is written")
            write_json(file, begun)
            args = ExportArgs(profile=settings.model_profile, target=target)
            manifest = export(settings.model_path, out, args)
        if planned:
            manifest = build(out, target, out)
    write_json(file, msgspec.structs.replace(begun, version=manifest.version))


def _own(file: Path, begun: Made) -> Manifest | None:
    """The manifest of this stage's own finished artifact that matches `begun`; None without one.

    Raises OutputRefused for any other artifact than the one that `file` records.
    """
    out = Path(begun.artifact)
    before = read_json(
        file,
        Made,
        lambda error: OutputRefused(
            f"{file} is damaged or not this stage's ({error}); move it away, or start over with "
            "--force"
        ),
    )
    if not (out / MANIFEST_FILE).is_file():
        return None
    manifest = read_manifest(out)
    if before in (begun, msgspec.structs.replace(begun, version=manifest.version)):
        return manifest
    raise OutputRefused(
        f"{out} holds an artifact of another checkpoint, profile or target; choose another "
        "directory, or start over with --force, which removes it"
    )


def _made_file(settings: ExportConfig, column: str) -> Path:
    return settings.home / f"{column}.json"


def _outputs(settings: ExportConfig) -> Sequence[Path]:
    """Only those of the requested forms."""
    made = [(_out(settings, column), _made_file(settings, column)) for column in _forms(settings)]
    return [path for pair in made for path in pair]


STAGE = Stage(
    name="export",
    about="turn the checkpoint into a proven artifact and measure its drift",
    settings=ExportConfig,
    inputs=_inputs,
    outputs=_outputs,
    check_values=_check_values,
    check=_check,
    plan=_plan,
    run=_run,
    # The artifact stays valid, but eval may have dropped its column: then measure it again.
    again="repair",
)
