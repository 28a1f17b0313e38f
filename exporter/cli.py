"""rerank-export: export a checkpoint; quantize, verify, tune and inspect an artifact, build a plan.

Exit codes: 0 done, 1 failed (one message on standard error), 2 wrong usage, 130 interrupted.
"""

import argparse
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from exporter.errors import ExportError, ParityFailed
from exporter.inspecting import describe_artifact
from exporter.locating import refuse_missing
from exporter.options import (
    MAX_TOKENS_OPTION,
    POOLING_OPTION,
    PREFIX_OPTION,
    PROFILE_OPTION,
    TEMPLATE_OPTION,
    read_prefixes,
    read_template,
)
from exporter.progress import stage
from exporter.report import AUTO, Parity, read_report
from exporter.tuning import tune
from exporter.workspace import announce_replacement, refuse_foreign
from runtime.engines import ENGINES
from runtime.errors import ServingError
from runtime.manifest import NOT_WITNESSED, Manifest, is_witnessed, read_manifest
from runtime.profile import (
    PROFILE_SUFFIX,
    is_own_profile,
    load_target_profile,
    model_profile_names,
    target_profile_names,
)
from runtime.telemetry import disable_telemetry
from runtime.tokens import translate_panics
from runtime.tuning import TUNING_FILE
from runtime.version import version


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line `arguments` (None: the process's own) and return the exit code."""
    disable_telemetry()
    args = _parser().parse_args(arguments)
    try:
        with translate_panics():  # also those of the checkpoint's own tokenizer
            args.run(args)
    except (ExportError, ServingError, OSError) as error:
        print(f"rerank-export: {error}", file=sys.stderr)
        for note in getattr(error, "__notes__", ()):
            print(f"rerank-export: {note}", file=sys.stderr)
        if isinstance(error, ParityFailed) and error.report is not None:
            print(f"rerank-export: the report is in {error.report}", file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        print(
            f"rerank-export: the package {error.name} is not installed; install the extra `export`",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        print("rerank-export: interrupted; nothing was written", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rerank-export",
        description="Turn a Hugging Face checkpoint (reranker or embedder) into a proven artifact.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {version()}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for add, run, name, text in (
        (_add_export, _export, "export", "export a checkpoint and prove parity"),
        (_add_quantize, _quantize, "quantize", "quantize a proven artifact: a lower precision"),
        (_add_verify, _verify, "verify", "check an artifact's hashes and goldens"),
        (_add_build, _build, "build", "build a TensorRT plan for this machine's GPU"),
        (_add_tune, _tune, "tune", "find the fastest batches and concurrent calls on this machine"),
        (_add_directory, _inspect, "inspect", "print an artifact's manifest and parity"),
        (_add_triton, _triton, "triton", "write a Triton model repository"),
    ):
        command = commands.add_parser(name, help=text)
        add(command)
        command.set_defaults(run=run)
    return parser


def _add_export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a directory or a hub id")
    _add_adapter(parser, "merge this LoRA adapter into the checkpoint, a directory or a hub id")
    parser.add_argument("--out", metavar="DIR", type=Path, required=True)
    parser.add_argument(
        PROFILE_OPTION,
        type=_profile,
        metavar="NAME|FILE.toml",
        help="model profile: the path of your own, which is stored in the artifact, or one of "
        f"{', '.join(model_profile_names())} (default: the one for the checkpoint's architecture)",
    )
    parser.add_argument(
        "--target",
        # An artifact is for an engine that reads a file of it.
        choices=[*(name for name, engine in _targets() if ENGINES[engine][1]), AUTO],
        default="cpu-fp32",
        help=f"where it will run (default: %(default)s); {AUTO}: the fastest CPU target that is "
        "proven here, by measurement",
    )
    parser.add_argument(
        MAX_TOKENS_OPTION,
        type=_positive,
        metavar="N",
        help="lower the artifact's token limit of one pair or text",
    )
    parser.add_argument(
        TEMPLATE_OPTION,
        metavar="FILE|TEXT",
        help="a reranker's prompt with {query} and {passage}, if the checkpoint does not name the "
        "one that it was trained with: a file (one newline at its end is dropped), or the text "
        "itself, with real newlines",
    )
    parser.add_argument(
        POOLING_OPTION,
        type=_pooling,
        choices=("avg", "cls", "last"),
        help="how an embedder makes one vector of its tokens' states (mean is avg), if no file of "
        "the checkpoint says",
    )
    parser.add_argument(
        PREFIX_OPTION,
        type=_prefix,
        nargs="+",
        action="extend",
        metavar="query=TEXT|passage=TEXT",
        help="an embedder's text before queries and before passages, if no file of the checkpoint "
        "says; one that is not named is empty",
    )
    parser.add_argument(
        "--strict",
        action="store_true",
        help="refuse unknown files and keys of the checkpoint, and scores that barely differ, "
        "instead of logging them",
    )
    parser.add_argument(
        "--unwitnessed",
        action="store_true",
        help="export a checkpoint that no loader here can load; it is then called not witnessed "
        "instead of proven",
    )
    _add_engine(parser)


def _add_quantize(parser: argparse.ArgumentParser) -> None:
    _add_directory(parser, "an artifact in fp32")
    parser.add_argument("--out", metavar="DIR", type=Path, required=True)
    parser.add_argument("--target", choices=[name for name, _ in _targets()], required=True)
    parser.add_argument(
        "--checkpoint", help="prove against this checkpoint, not against the artifact's own scores"
    )
    _add_adapter(parser, "the adapter that was merged into the checkpoint")
    _add_engine(parser)


def _add_verify(parser: argparse.ArgumentParser) -> None:
    _add_directory(parser)
    parser.add_argument("--checkpoint", help="repeat all parity rungs against this checkpoint")
    _add_adapter(parser, "the adapter that was merged into the checkpoint")
    _add_engine(parser)


def _add_build(parser: argparse.ArgumentParser) -> None:
    plans = [name for name, engine in _targets() if engine == "tensorrt"]
    _add_directory(parser, "an artifact of rerank-export")
    parser.add_argument(
        "--target",
        choices=plans,
        metavar="NAME",
        help="precision and shapes: tensorrt-fp16 takes rows of up to 512 tokens, "
        "tensorrt-fp16-4096 longer ones too; any of profiles/targets whose engine is tensorrt "
        "(default: the target that the artifact was exported for)",
    )
    parser.add_argument(
        "--out", metavar="DIR", type=Path, help="write the artifact with its plan there instead"
    )
    parser.add_argument(
        "--timing-cache",
        metavar="FILE",
        type=Path,
        help="store measurements of kernels there, which makes the next build faster",
    )
    parser.add_argument(
        "--version-compatible",
        action="store_true",
        help="let later versions of TensorRT's same major version run the plan too",
    )


def _add_tune(parser: argparse.ArgumentParser) -> None:
    _add_directory(parser)
    parser.add_argument(
        "--seconds",
        type=_positive,
        metavar="N",
        default=60,
        help="how long to measure (default: %(default)s)",
    )


def _add_triton(parser: argparse.ArgumentParser) -> None:
    _add_directory(parser, "an artifact")
    parser.add_argument(
        "--out", metavar="REPOSITORY", type=Path, default=Path("triton/model_repository")
    )
    parser.add_argument(
        "--platform",
        choices=("python", "onnxruntime", "tensorrt"),
        default="python",
        help="what runs the model inside Triton (default: %(default)s, the artifact itself)",
    )


def _add_directory(parser: argparse.ArgumentParser, help_text: str | None = None) -> None:
    parser.add_argument("directory", metavar="DIR", type=Path, help=help_text)


def _add_adapter(parser: argparse.ArgumentParser, help_text: str) -> None:
    parser.add_argument("--adapter", metavar="DIR", help=help_text)


def _add_engine(parser: argparse.ArgumentParser) -> None:
    readers = sorted(name for name, (_, file) in ENGINES.items() if file)
    parser.add_argument(
        "--engine", choices=readers, help="prove on this engine, not the target's own"
    )


@cache
def _targets() -> tuple[tuple[str, str], ...]:
    """Every target and its engine."""
    return tuple((name, load_target_profile(name).engine) for name in target_profile_names())


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"found {text!r}, wanted a whole number above 0")
    return int(text)


def _profile(text: str) -> str:
    if not (is_own_profile(text) or text in model_profile_names()):
        raise argparse.ArgumentTypeError(
            f"found {text!r}, wanted a file that ends in {PROFILE_SUFFIX}, or one of: "
            f"{', '.join(model_profile_names())}"
        )
    return text


def _pooling(text: str) -> str:
    return "avg" if text == "mean" else text


def _prefix(text: str) -> tuple[str, str]:
    kind, equals, prefix = text.partition("=")
    if not equals or kind not in ("query", "passage"):
        raise argparse.ArgumentTypeError(f"found {text!r}, wanted query=TEXT or passage=TEXT")
    return kind, prefix


def _export(args: argparse.Namespace) -> None:
    if args.target == AUTO and args.engine is not None:
        raise ExportError(
            f"found --engine {args.engine} beside --target {AUTO}, which chooses the engine; "
            "leave one of them out"
        )
    template = None if args.template is None else read_template(args.template)
    prefixes = None if args.prefix is None else read_prefixes(args.prefix)
    _check_paths(args.out, args.checkpoint, args.adapter)
    # PyTorch takes seconds to import: help, wrong usage and `inspect` need not wait for it.
    with stage("load PyTorch"):
        from exporter.auto import export_fastest
        from exporter.pipeline import ExportArgs, export
        from exporter.prompt import Prompt
    export_args = ExportArgs(
        profile=args.profile,
        target=args.target,
        max_tokens=args.max_tokens,
        engine=args.engine,
        template=None if template is None else Prompt(*template, written=False),
        pooling=args.pooling,
        prefixes=prefixes,
        strict=args.strict,
        unwitnessed=args.unwitnessed,
        adapter=args.adapter,
    )
    run = export_fastest if args.target == AUTO else export
    manifest = run(args.checkpoint, args.out, export_args)
    _print_artifact(manifest, args.out)


def _quantize(args: argparse.Namespace) -> None:
    _refuse_lone_adapter(args)
    read_manifest(args.directory)
    _check_paths(args.out, args.checkpoint, args.adapter)
    with stage("load PyTorch"):
        from exporter.pipeline import quantize_artifact
    manifest = quantize_artifact(
        args.directory,
        args.out,
        args.target,
        checkpoint=args.checkpoint,
        adapter=args.adapter,
        engine=args.engine,
    )
    _print_artifact(manifest, args.out)


def _check_paths(out: Path, *sources: str | None) -> None:
    """Raise OutputRefused or CheckpointRefused for paths that cannot be; log what is replaced."""
    for source in filter(None, sources):
        refuse_missing(source)
    refuse_foreign(out)
    announce_replacement(out)


def _refuse_lone_adapter(args: argparse.Namespace) -> None:
    if args.adapter is not None and args.checkpoint is None:
        raise ExportError(
            f"found --adapter {args.adapter} and no --checkpoint; name its base, or the adapter "
            "alone, as --checkpoint"
        )


def _print_artifact(manifest: Manifest, out: Path) -> None:
    summary = _summary(manifest, read_report(out))
    print(f"{out}: artifact {manifest.version}, {summary}")
    print(f"serve it: rerank-serve --{manifest.kind} {out}")


def _verify(args: argparse.Namespace) -> None:
    _refuse_lone_adapter(args)
    read_manifest(args.directory)
    for source in filter(None, (args.checkpoint, args.adapter)):
        refuse_missing(source)
    with stage("load PyTorch"):
        from exporter.pipeline import verify
    manifest = verify(args.directory, args.checkpoint, args.engine, args.adapter)
    against = "" if args.checkpoint is None else f", parity with {args.checkpoint}"
    against += "" if args.adapter is None else f" and {args.adapter}"
    if against and not is_witnessed(manifest):
        against += " (the artifact itself is not witnessed: export it again)"
    print(f"{args.directory}: artifact {manifest.version} is intact: hashes, goldens{against}")


def _build(args: argparse.Namespace) -> None:
    from exporter.building import build

    out = args.out or args.directory
    manifest = build(
        args.directory,
        args.target,
        out,
        args.timing_cache,
        version_compatible=args.version_compatible,
    )
    plan = read_report(out).plan
    assert isinstance(plan, Parity)
    summary = _summary(manifest, plan)
    print(f"{out}: artifact {manifest.version} with a plan, {summary}")


def _tune(args: argparse.Namespace) -> None:
    with stage("measure limits of calls"):
        outcome = tune(args.directory, args.seconds)
    default, best = outcome.trials[0], outcome.best
    print("token budget  padding  calls    tokens/s  (range)          against the target's own")
    for trial in outcome.trials:
        low, high = min(trial.tokens_per_s), max(trial.tokens_per_s)
        print(
            f"{trial.limits.token_budget:12}  {trial.limits.padding_waste:7.0%}  "
            f"{trial.limits.lanes or outcome.lanes:5}  "
            f"{trial.median:10.0f}  ({low:.0f}–{high:.0f})".ljust(59)
            + f"{trial.median / default.median:5.2f}"
            + " ← kept" * (trial is best)
        )
    rounds = f"in {len(default.tokens_per_s)} rounds on {outcome.texts} texts"
    if outcome.changed:
        print(
            f"{args.directory / TUNING_FILE}: at least {best.gain(default):.2f} times as fast as "
            f"the target's own limits in three of four rounds, {rounds}"
        )
    else:
        print(f"the target's own limits are the best within noise {rounds}: nothing to store")


def _inspect(args: argparse.Namespace) -> None:
    for line in describe_artifact(args.directory):
        print(line)


def _triton(args: argparse.Namespace) -> None:
    from exporter.triton.repository import write_repository

    model = write_repository(args.directory, args.out, args.platform)
    print(f"{model}: a model for Triton, platform {args.platform}; {args.out}/start.sh starts it")


def _summary(manifest: Manifest, parity: Parity) -> str:
    logits, ranking = parity.rungs["logits"], parity.rungs["ranking"]
    tau = "none to order" if ranking.kendall_tau is None else f"tau {ranking.kendall_tau:.4f}"
    allowed = "" if logits.tolerance is None else f" (tolerance {logits.tolerance:.2g})"
    what, delta = ("pairs", "logit") if manifest.kind == "rank" else ("texts", "component")
    proven = (
        f"compared with itself ({parity.witness})"
        if parity.witness.startswith(NOT_WITNESSED)
        else f"proven against {parity.witness}"
    )
    return (
        f"{proven}, on {parity.engine}: {logits.pairs} {what}, "
        f"max |Δ {delta}| {logits.max_abs_delta:.2g}{allowed}, {tau}"
    )


if __name__ == "__main__":
    sys.exit(main())
