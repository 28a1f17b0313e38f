"""A clock that stands still unless the test moves it."""


class Clock:
    """Seconds, as time.monotonic() gives them; `reads` counts who looked."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.reads = 0

    def __call__(self) -> float:
        self.reads += 1
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds
