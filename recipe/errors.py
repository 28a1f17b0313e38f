"""The errors that the recipe raises on purpose, as one tree.

    RecipeError
    ├── BadConfig        a setting is unknown or wrong
    ├── BadInput         an input is missing, broken or too small; raised before expensive work
    ├── Drifted          a model's quality changed past the tolerance on its way to the endpoint
    ├── Worsened         a model ranks worse than the one before it, by more than chance
    ├── StageFailed      a stage could not finish its work
    └── LaunchFailed     the launcher of a cluster is missing, or refused the job

OutputRefused, for output that is finished or was begun with other settings, is the runtime's.
Messages say what was found, what was wanted and what to do. None contains a key or token.
"""

from runtime.errors import OutputRefused as OutputRefused


class RecipeError(Exception):
    """Root of the tree above."""


class BadConfig(RecipeError):
    """A configuration file, a key or a value cannot be used."""


class BadInput(RecipeError):
    """An input of a stage cannot be used as it is."""


class Drifted(RecipeError):
    """Two columns that should agree differ past the tolerance; the results are written."""


class Worsened(RecipeError):
    """A model is worse than the one it is compared with, by more than chance; that is written."""


class StageFailed(RecipeError):
    """A stage stopped. Its finished work is kept, and the same command continues."""


class LaunchFailed(RecipeError):
    """A job could not be submitted to the cluster's launcher."""
