"""rerank: run the reranker recipe, one stage or all of them.

Exit codes: 0 done, 1 failed (one message on standard error), 2 wrong usage, 3 a model ranks worse
by more than chance, 130 interrupted.
"""

import argparse
import re
import shlex
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from recipe.cluster import launch, launch_command, load_profile, refuse_local_only, task_file
from recipe.config import STAGE_NAMES, Recipe
from recipe.config_files import DEFAULT, as_yaml, config_names, load
from recipe.errors import Worsened
from recipe.foresight import check_run
from recipe.progress import print_line, stage_log
from recipe.report import FAILURES, ends_with_report
from recipe.stage import Stage, perform, refuse_read, state
from recipe.table import COMMANDS, STAGES
from runtime.telemetry import disable_telemetry
from runtime.version import version

_LAST = "eval"
_WRONG_USAGE, WORSE = 2, 3
_SETTINGS_HELP = (
    "Settings may be anywhere on the line, as KEY=VALUE or STAGE.KEY=VALUE; `rerank STAGE -d` "
    "shows every key with its value."
)
# Commands that take settings as KEY=VALUE, beside the stages.
_CONFIGURED = ("info", "run", "compare", "data")
# A key has no slash or colon: a URL or path that contains = is not a setting.
_OVERRIDE = re.compile(r"[A-Za-z_][\w.]*=.*", re.DOTALL)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line `arguments` (None: sys.argv) and return the exit code."""
    disable_telemetry()
    given = list(sys.argv[1:] if arguments is None else arguments)
    # argparse needs all positional arguments together; users write settings anywhere.
    overrides = []
    if given and given[0] in {*_CONFIGURED, *STAGE_NAMES}:
        overrides = [one for one in given if _OVERRIDE.fullmatch(one)]
    args = _parser().parse_args([one for one in given if one not in overrides])
    args.overrides = overrides
    try:
        return int(args.handler(args) or 0)
    except FAILURES as error:
        print_line(str(error))
        return WORSE if isinstance(error, Worsened) else 1
    except ModuleNotFoundError as error:
        extra = "ray" if error.name == "ray" else "recipe"
        print_line(f"the package {error.name} is not installed; install the extra `{extra}`")
        return 1
    except KeyboardInterrupt:
        print_line("interrupted; run the same command to continue")
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rerank",
        description="Fine-tune, prove and deploy a reranker: " + ", ".join(STAGE_NAMES) + ".",
        epilog=f"A small offline run, from corpus to artifact: rerank run -c small --to export. "
        f"{_SETTINGS_HELP}",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {version()}")
    # Without a command: the help.
    parser.set_defaults(handler=lambda _: parser.print_help())
    commands = parser.add_subparsers(metavar="COMMAND")
    info = commands.add_parser("info", help="list the stages, their inputs and their state")
    _add_config(info)
    info.epilog = _SETTINGS_HELP
    info.set_defaults(handler=_info)
    whole = commands.add_parser(
        "run",
        help="run several stages in order",
        description="Run several stages in order, then write report.html. Finished ones are left.",
    )
    _add_common(whole)
    names = [stage.name for stage in STAGES]
    for option, into, default, end in (
        ("--from", "first", STAGE_NAMES[0], "first"),
        ("--to", "last", _LAST, "last"),
    ):
        whole.add_argument(
            option,
            dest=into,
            choices=names,
            default=default,
            metavar="STAGE",
            help=f"the {end} stage (default: %(default)s)",
        )
    whole.set_defaults(handler=_run)
    for stage in STAGES:
        one = commands.add_parser(stage.name, help=stage.about, description=_sentence(stage.about))
        _add_common(one)
        one.set_defaults(handler=partial(_run_stages, [stage]))
    for name, module in COMMANDS.items():
        command = commands.add_parser(name, help=module.ABOUT, description=_sentence(module.ABOUT))
        if name in _CONFIGURED:
            _add_config(command)
            command.epilog = _SETTINGS_HELP
        module.add_arguments(command)
        command.set_defaults(handler=module.run)
    return parser


def _add_config(parser: argparse.ArgumentParser) -> None:
    known = ", ".join(config_names())
    parser.add_argument(
        "-c",
        "--config",
        default=DEFAULT,
        metavar="NAME|PATH",
        help=f"{known}, or a TOML or YAML file (default: %(default)s)",
    )


def _add_common(parser: argparse.ArgumentParser) -> None:
    _add_config(parser)
    parser.add_argument(
        "-d", "--dry-run", action="store_true", help="print settings and plan, then exit"
    )
    parser.add_argument(
        "--force", action="store_true", help="start over: remove what these stages wrote before"
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "-r", "--run", dest="attached", metavar="PROFILE", help="run on a profile of env.toml"
    )
    where.add_argument(
        "-b", "--batch", dest="detached", metavar="PROFILE", help="the same, without waiting for it"
    )
    parser.epilog = _SETTINGS_HELP


def _sentence(about: str) -> str:
    return f"{about[0].upper()}{about[1:]}."


def _run(args: argparse.Namespace) -> int:
    names = [stage.name for stage in STAGES]
    first, last = names.index(args.first), names.index(args.last)
    if first > last:
        print_line(
            f"found --from {args.first} --to {args.last}, wanted the order {', '.join(names)}"
        )
        return _WRONG_USAGE
    return _run_stages(STAGES[first : last + 1], args, whole=True)


def _run_stages(
    stages: Sequence[Stage[Any]], args: argparse.Namespace, *, whole: bool = False
) -> int:
    names = [stage.name for stage in stages]
    recipe = load(args.config, names, args.overrides, print_line)
    if args.attached or args.detached:
        return _launch(names, recipe, args)
    if args.dry_run:
        print(_preview(stages, recipe))
        check_run(stages, recipe, dry=True)
        return 0
    config = [Path(args.config)] if args.config not in config_names() else []
    for stage in stages:
        refuse_read(stage, getattr(recipe, stage.name), config)
    # Before the first stage, which may take hours.
    check_run(stages, recipe, dry=False)
    with ends_with_report(recipe) if whole else nullcontext(lambda _: None) as begins:
        for stage in stages:
            begins(stage.name)
            log = stage_log(stage.name)
            if perform(stage, getattr(recipe, stage.name), force=args.force, log=log):
                log(f"done: {getattr(recipe, stage.name).home}")
    return 0


def _launch(stages: Sequence[str], recipe: Recipe, args: argparse.Namespace) -> int:
    """Submit the stages to the cluster of the profile, or print the exact job."""
    name, detached = args.attached or args.detached, args.detached is not None
    refuse_local_only(stages)
    profile = load_profile(name, Path.cwd())
    task = task_file(profile, stages, recipe, force=args.force)
    if args.dry_run:
        command = launch_command(name, profile, "job.yaml", detached=detached)
        print(f"# {shlex.join(command)}\n{task}", end="")
    else:
        launch(name, profile, task, detached=detached)
    return 0


def _preview(stages: Sequence[Stage[Any]], recipe: Recipe) -> str:
    """The resolved settings as YAML, with the plan as comments."""
    parts = [f"# plan: {' -> '.join(stage.name for stage in stages)}"]
    for stage in stages:
        settings = getattr(recipe, stage.name)
        parts.append(f"# rerank/{stage.name}")
        parts.append(as_yaml(recipe, [stage.name]).rstrip("\n"))
        made_before = {one.name for one in stages[: stages.index(stage)]}
        for wanted in stage.inputs(settings):
            there = _presence(wanted.path, wanted.made_by, made_before)
            parts.append(f"# {stage.name} reads {wanted.path} ({there})")
        parts += [f"# {stage.name} would {line}" for line in stage.plan(settings)]
        parts.append(f"# {stage.name} is {state(stage, settings)} in {settings.home}")
    return "\n".join(parts)


def _presence(path: Path, made_by: str | None, made_before: set[str]) -> str:
    if path.exists():
        return "there"
    if made_by in made_before:
        return f"made by {made_by} before"
    return f"MISSING: run {made_by} first" if made_by else "MISSING"


def _info(args: argparse.Namespace) -> int:
    recipe = load(args.config, STAGE_NAMES, args.overrides, print_line)
    print(f"configurations: {', '.join(config_names())}")
    for number, stage in enumerate(STAGES):
        settings = getattr(recipe, stage.name)
        print(f"\n{number} {stage.name}: {stage.about} ({state(stage, settings)})")
        for wanted in stage.inputs(settings):
            made = f", from {wanted.made_by}" if wanted.made_by else ""
            print(f"    reads  {wanted.path} ({wanted.what}{made})")
        for path in stage.outputs(settings):
            print(f"    writes {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
