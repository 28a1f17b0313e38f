"""The command line of `rerank-serve` and its server; server/cli.py runs before it."""

import argparse
import os
from typing import NoReturn

import uvicorn

from runtime.version import version
from server.app import create_app
from server.descriptors import raise_descriptor_limit
from server.listen import bind_port, connection_options
from server.logs import configure_logging, report_startup_error
from server.settings import SettingsError, read_settings
from server.variables import OPTIONS

# Longer than the idle timeout of common load balancers, so that they close first.
_KEEP_ALIVE_S = 75
_USAGE_ERROR = 2


def serve(arguments: list[str] | None, *, as_json: bool) -> int:
    """Serve until a signal stops it. Returns 2 for settings that cannot be used, reported in JSON
    if `as_json`."""
    options = vars(_parser(as_json=as_json).parse_args(arguments))
    given = {name: value for name, value in options.items() if value}
    try:
        settings = read_settings(os.environ, given)
        configure_logging(settings.log_level, as_json=settings.json_logs)
        raise_descriptor_limit()
        connections = connection_options(settings)
        app = create_app(settings)
        taken = bind_port(settings.host, settings.port, "NIM_HTTP_API_PORT")
    except SettingsError as error:
        report_startup_error(str(error), as_json=as_json)
        return _USAGE_ERROR
    config = uvicorn.Config(
        app,
        loop="uvloop",
        lifespan="on",
        timeout_keep_alive=_KEEP_ALIVE_S,
        **connections,
    )
    # uvicorn raises the signal again when it has stopped, and server.cli ends the process.
    uvicorn.Server(config).run(sockets=taken)
    return 0


class _Parser(argparse.ArgumentParser):
    """An ArgumentParser that reports usage errors in JSON if `as_json`."""

    as_json = False

    def error(self, message: str) -> NoReturn:
        """Report `message` and exit with 2."""
        if self.as_json:
            report_startup_error(message, as_json=True)
            self.exit(_USAGE_ERROR)
        super().error(message)


def _parser(*, as_json: bool) -> argparse.ArgumentParser:
    parser = _Parser(
        prog="rerank-serve",
        description="Serve a reranker, an embedder or both on the surfaces of NVIDIA's NIMs and "
        "others. Everything else is set by environment variables; docs/environment.md lists them.",
    )
    parser.as_json = as_json
    parser.add_argument("--version", action="version", version=f"%(prog)s {version()}")
    for option in OPTIONS:
        word = option.name.removeprefix("--").upper()
        parser.add_argument(option.name, dest=option.name, metavar=word, help=option.effect)
    return parser
