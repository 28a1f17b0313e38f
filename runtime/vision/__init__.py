"""Images: from the bytes of a file to tiles, to the tower's embeddings, to places among tokens.

Needs Pillow (the extra `vision`), and is imported only for models that see.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from runtime.errors import EngineUnavailable


@contextmanager
def naming_pillow() -> Iterator[None]:
    """For imports that need Pillow: raises EngineUnavailable where it is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise EngineUnavailable(
            f"the package {error.name} is missing, which reads images; install the extra `vision`"
        ) from error
