"""The one error of this package."""


class RerankError(Exception):
    """No ranking is available: the server is unreachable, refuses, or sends an invalid answer.

    `status` is the HTTP status of the last answer, None when there was none; `attempts` is the
    number of requests (0 when the request could not even be written).
    """

    def __init__(self, message: str, *, status: int | None = None, attempts: int = 0) -> None:
        super().__init__(message)
        self.status = status
        self.attempts = attempts
