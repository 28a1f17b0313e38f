"""The one error of this package."""


class RerankError(Exception):
    """No ranking could be had: the server is away, refuses, or answers what makes no sense.

    `status` is the HTTP status of the last answer, None when there was none; `attempts` is how
    often the server was asked (0 when the request could not even be written).
    """

    def __init__(self, message: str, *, status: int | None = None, attempts: int = 0) -> None:
        super().__init__(message)
        self.status = status
        self.attempts = attempts
