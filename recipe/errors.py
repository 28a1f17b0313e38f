"""Every error that the recipe raises on purpose, as one tree.

    RecipeError
    ├── BadConfig        a setting is unknown or wrong
    ├── BadInput         an input is missing, broken or too small; raised before expensive work
    ├── Drifted          a model's quality changed past the tolerance on its way to the endpoint
    ├── StageFailed      the work itself could not be done to its end
    └── LaunchFailed     the launcher of a cluster is not here, or refused the job

OutputRefused, for an output that is finished or was begun otherwise, is the runtime's.
Messages say what was found, what was wanted and what to do next. None ever holds a key or token.
"""

from runtime.errors import OutputRefused as OutputRefused


class RecipeError(Exception):
    """Root of the tree above."""


class BadConfig(RecipeError):
    """A configuration file, a key or a value cannot be used."""


class BadInput(RecipeError):
    """What a stage was given cannot be worked with as it is."""


class Drifted(RecipeError):
    """Two columns that should agree differ past the tolerance; the results are written."""


class StageFailed(RecipeError):
    """A stage stopped; what it finished is kept, and the same command goes on from there."""


class LaunchFailed(RecipeError):
    """A job could not be handed to the cluster's launcher."""
