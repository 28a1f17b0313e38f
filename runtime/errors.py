"""Every error that the runtime raises on purpose, as one tree.

    ServingError
    ├── InputRejected            the caller's texts cannot be scored; sending them again won't help
    │   ├── BlankInput           a text without a visible character
    │   ├── ForbiddenText        half of a surrogate pair
    │   ├── NoTokens             a text of which the tokenizer makes nothing
    │   ├── TokenizerGaveUp      a text that the tokenizer's patterns take too many ways through
    │   ├── NoPassages           nothing to rank
    │   ├── NoInputs             nothing to embed
    │   ├── InputTypeWanted      the model embeds queries and passages differently
    │   ├── VastText             more characters than are looked at
    │   ├── ImageUnwanted        an image where the model, or the place, takes none
    │   ├── BrokenImage          a file that cannot be decoded
    │   ├── VastImage            more bytes or pixels than are looked at
    │   ├── TooManyTiles         images of more tiles than one request may have
    │   └── InputTooLong         more tokens than the engine takes, and truncation is off
    ├── Unavailable              the same request may succeed later; carries `retry_after_s`
    │   ├── Overloaded           there is no room for the request
    │   │   └── TooLate          even alone it would take longer than its deadline allows
    │   ├── DeadlineExceeded     the deadline passed while the request waited or ran
    │   ├── ModelClosed          the model is shutting down
    │   ├── OutOfMemory          the device has no memory for this call
    │   ├── DeviceLost           the device failed for good: only a new process helps
    │   └── EngineAway           the server that computes for this one cannot be reached
    ├── ArtifactError            the directory cannot be served
    │   ├── ProfileError         a TOML profile is unknown or wrong
    │   ├── ManifestError        manifest.json is unreadable or of another schema
    │   ├── FileChanged          a file's sha256 is not the manifest's
    │   └── GoldenMismatch       the engine or tokenizer no longer gives the recorded ids or scores
    ├── OutputRefused            a file or directory must not be written, replaced or removed
    └── EngineError              the engine failed
        ├── EngineUnavailable    the asked-for engine or hardware is not here
        ├── EngineLost           the thread that calls the engine has ended
        └── NonFiniteScore       the engine produced NaN or infinity

Messages say what was found, what was wanted and what to do next, and never contain request text.
"""


class ServingError(Exception):
    """Root of the tree above."""


class InputRejected(ServingError):
    """The request's texts cannot be scored as they are."""


class BlankInput(InputRejected):
    """`what` ("query" or "passages[3]") is empty, or nothing in it shows."""

    def __init__(self, what: str) -> None:
        self.what = what
        super().__init__(f"{what} is blank; send text with at least one visible character")


class ForbiddenText(InputRejected):
    """`what` holds a character that no tokenizer input may hold."""

    def __init__(self, what: str, character: str) -> None:
        self.what = what
        super().__init__(f"{what} contains {character}; remove it and send the text again")


class NoTokens(InputRejected):
    """The model's tokenizer makes no token of `what`."""

    def __init__(self, what: str) -> None:
        self.what = what
        super().__init__(f"{what} has no tokens; send text that the model's tokenizer knows")


class TokenizerGaveUp(InputRejected):
    """A pattern of the tokenizer met the library's limit of retries, at which it panics."""

    def __init__(self) -> None:
        super().__init__(
            "the model's tokenizer gave up on a text, cut in too many ways by its patterns; "
            "send a shorter or a more ordinary text"
        )


class NoPassages(InputRejected):
    """An empty list of passages."""

    def __init__(self) -> None:
        super().__init__("found 0 passages, wanted at least 1")


class NoInputs(InputRejected):
    """An empty list of texts."""

    def __init__(self) -> None:
        super().__init__("found 0 inputs, wanted at least 1")


class InputTypeWanted(InputRejected):
    """Neither query nor passage was said to a model that tells them apart.

    The sentence is the NIM's own: clients match on it.
    """

    def __init__(self) -> None:
        super().__init__("'input_type' parameter is required for asymmetric models")


class InputTooLong(InputRejected):
    """A pair has `found_tokens` tokens where the engine takes `max_tokens`, with truncation off.

    The sentence is the NIM's own: langchain's tests and Elasticsearch match on it.
    """

    def __init__(self, found_tokens: int, max_tokens: int) -> None:
        self.found_tokens = found_tokens
        self.max_tokens = max_tokens
        super().__init__(
            f"Input length {found_tokens} exceeds maximum allowed token size {max_tokens}"
        )


class VastText(InputRejected):
    """A pair of so many characters that looking at all of them takes too long, although it may
    have few tokens."""

    def __init__(self, found_characters: int, most_characters: int) -> None:
        super().__init__(
            f"found {found_characters} characters, wanted at most {most_characters}; leave out "
            "what says nothing, such as long runs of blanks, or ask for truncation"
        )


class ImageUnwanted(InputRejected):
    """`what` is an image where there can be none."""

    def __init__(self, what: str, why: str) -> None:
        self.what = what
        super().__init__(f"{what} is an image, but {why}; send text")


class BrokenImage(InputRejected):
    """`what` is no image that can be decoded; `reason` says why."""

    def __init__(self, what: str, reason: str) -> None:
        self.what = what
        super().__init__(
            f"{what} cannot be read as an image ({reason}); send a whole file in PNG, JPEG, WebP, "
            "GIF, BMP or TIFF"
        )


class VastImage(InputRejected):
    """`what` is larger than images are looked at."""

    def __init__(self, what: str, found: str, most: str) -> None:
        self.what = what
        super().__init__(f"{what} has {found}, wanted at most {most}; send a smaller image")


class TooManyTiles(InputRejected):
    """The images of one request have more tiles than it may have."""

    def __init__(self, found: int, most: int) -> None:
        super().__init__(
            f"found images of {found} tiles in one request, wanted at most {most}; send fewer or "
            "smaller images"
        )


class Unavailable(ServingError):
    """Not now; `retry_after_s` is the runtime's own estimate, in seconds, of when to try again."""

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(message)


class Overloaded(Unavailable):
    """Refused at admission: nothing of the request was computed."""


class TooLate(Overloaded):
    """Refused at admission: the request itself is predicted to take longer than its deadline
    allows, whatever else waits."""


class DeadlineExceeded(Unavailable):
    """The deadline passed before all rows were scored; the remaining rows are dropped."""

    def __init__(self) -> None:
        super().__init__("the request's deadline passed before it was scored; send fewer passages")


class ModelClosed(Unavailable):
    """The model stopped while the request waited."""

    def __init__(self) -> None:
        super().__init__("the model is shutting down")


class OutOfMemory(Unavailable):
    """The device has no memory for an engine call; a smaller one may find room."""

    def __init__(self) -> None:
        super().__init__(
            "the device has no memory for this request; send shorter texts, or lower "
            "NIM_TRITON_MAX_SEQ_LENGTH on the server"
        )


class DeviceLost(Unavailable):
    """Every later call on the device fails too, until the process starts anew."""

    def __init__(self) -> None:
        super().__init__("the device failed and needs a new process; ask again in a while")


class EngineAway(Unavailable):
    """An engine in another process does not answer; it may be back soon."""

    def __init__(self) -> None:
        # Addresses are the log's business, not the caller's.
        super().__init__("the engine cannot be reached; send the request again")


class ArtifactError(ServingError):
    """The directory cannot be served as it is."""


class ProfileError(ArtifactError):
    """A profile is missing, has an unknown key or a wrong value."""


class ManifestError(ArtifactError):
    """manifest.json cannot be used."""


class FileChanged(ArtifactError):
    """`name` differs from what the manifest recorded."""

    def __init__(self, name: str, found: str, wanted: str) -> None:
        self.name = name
        super().__init__(
            f"{name} has changed since it was exported: found {found}, wanted {wanted}; "
            "export the checkpoint again or restore the file"
        )


class GoldenMismatch(ArtifactError):
    """Recorded token ids or scores are not reproduced."""


class OutputRefused(ServingError):
    """Going on would overwrite what is read, mix results, or touch what somebody else wrote."""


class EngineError(ServingError):
    """The engine raised, hung up or answered nonsense."""


class EngineUnavailable(EngineError):
    """The engine that was asked for cannot run here."""


class EngineLost(EngineError):
    """Nobody calls the engine any more; only a new process helps."""

    def __init__(self) -> None:
        super().__init__("the thread that calls the engine has ended; restart the process")


class NonFiniteScore(EngineError):
    """NaN or infinity came out of the engine."""

    def __init__(self, rows: int) -> None:
        super().__init__(
            f"the engine gave NaN or infinity for {rows} row(s); the precision is unfit for "
            "these weights: run `rerank-export verify` on the artifact"
        )
