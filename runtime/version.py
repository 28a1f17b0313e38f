"""The version of the installed distribution, for `--version` of the commands."""

from functools import cache
from importlib import metadata

DISTRIBUTION = "open-rerank"


@cache
def version() -> str:
    """The version in the metadata of `open-rerank`; "not installed" in a bare checkout."""
    try:
        return metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return "not installed"
