"""`rerank-serve`: serve artifacts."""

import argparse
import os
import signal
import sys

import uvicorn

from runtime.telemetry import disable_telemetry
from server.app import create_app
from server.descriptors import raise_descriptor_limit
from server.listen import connection_options, take_port
from server.logs import configure_logging
from server.settings import SettingsError, read_settings
from server.variables import OPTIONS

# Longer than the idle time of common load balancers, so that they close first.
_KEEP_ALIVE_S = 75
_USAGE_ERROR = 2


def main(arguments: list[str] | None = None) -> int:
    """Serve until told to stop; 0 after a clean stop, 2 for settings that cannot be used."""
    disable_telemetry()
    options = vars(_parser().parse_args(arguments))
    given = {name: value for name, value in options.items() if value}
    try:
        settings = read_settings(os.environ, given)
        configure_logging(settings)
        raise_descriptor_limit()
        connections = connection_options(settings)
        app = create_app(settings)
        taken = take_port(settings.host, settings.port, "NIM_HTTP_API_PORT")
    except SettingsError as error:
        print(f"rerank-serve: {error}", file=sys.stderr)
        return _USAGE_ERROR
    config = uvicorn.Config(
        app,
        loop="uvloop",
        lifespan="on",
        timeout_keep_alive=_KEEP_ALIVE_S,
        **connections,
    )
    # uvicorn raises the signal again when it has stopped; a stop that was asked for is no error.
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.signal(signal.SIGINT, lambda *_: None)
    uvicorn.Server(config).run(sockets=[taken])
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rerank-serve",
        description="Serve a reranker, an embedder or both on the surfaces of NVIDIA's NIMs and "
        "others. Everything else is set by environment variables; README lists them.",
    )
    for option in OPTIONS:
        word = option.name.removeprefix("--").upper()
        parser.add_argument(option.name, dest=option.name, metavar=word, help=option.effect)
    return parser
