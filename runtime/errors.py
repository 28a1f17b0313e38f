"""Every error that the runtime raises on purpose, as one tree.

    ServingError
    ├── InputRejected            the caller's texts cannot be scored; sending them again won't help
    │   ├── TextRejected         one of them; carries its place
    │   │   ├── BlankInput       a text without a visible character
    │   │   ├── ForbiddenText    half of a surrogate pair
    │   │   ├── NoTokens         a text without tokens
    │   │   └── ImageRejected    its image
    │   │       ├── ImageNotAllowed  the model, or the place, takes none
    │   │       ├── InvalidImage     a file that cannot be decoded
    │   │       └── ImageTooLarge    too many bytes or pixels
    │   ├── TokenizerFailed      a text on which the tokenizer's patterns backtrack too much
    │   ├── NoPassages           nothing to rank
    │   ├── NoInputs             nothing to embed
    │   ├── InputTypeRequired    the model embeds queries and passages differently
    │   ├── TextTooLarge         more characters than are tokenised
    │   ├── TooManyTiles         a request whose images have too many tiles
    │   └── InputTooLong         more tokens than the engine takes, and truncation is off
    ├── Unavailable              the same request may succeed later; carries `retry_after_s`
    │   ├── Overloaded           there is no room for the request
    │   │   └── TooLate          even alone it would take longer than its deadline allows
    │   ├── DeadlineExceeded     the deadline passed while the request waited or ran
    │   ├── ModelClosed          the model is shutting down
    │   ├── OutOfMemory          the device has no memory for this call
    │   ├── DeviceLost           the device failed for good: only a new process helps
    │   └── EngineUnreachable    a remote engine cannot be reached
    ├── ArtifactError            the directory cannot be served
    │   ├── ProfileError         a TOML profile is unknown or wrong
    │   ├── ManifestError        manifest.json is unreadable or of another schema
    │   ├── FileChanged          a file's sha256 is not the manifest's
    │   └── GoldenMismatch       the engine or tokenizer no longer gives the recorded ids or scores
    ├── OutputRefused            a file or directory must not be written, replaced or removed
    └── EngineError              the engine failed
        ├── EngineUnavailable    the asked-for engine or hardware is not here
        ├── EngineThreadEnded    the thread that calls the engine has ended
        └── NonFiniteScore       the engine produced NaN or infinity

Messages say what was found, what was wanted and what to do next, and never contain request text.

What an error means to whoever serves the model stands on its class and is inherited, also by the
errors that a server adds:

    http_status   the HTTP status; 500 also hides the message, which is for the log
    grpc_code     the name of the status in grpc.StatusCode
    refusal       why the caller is asked to retry: the `reason` of the metric rerank_refusals;
                  None for errors that ask nothing
    blame         whose fault it was: "caller"; "disconnect", a caller that has gone; "admission",
                  nothing of the request was computed as there was no room or time; "engine";
                  "server", everything else
"""

import copyreg
from typing import ClassVar, Literal, NamedTuple

Blame = Literal["caller", "disconnect", "admission", "engine", "server"]


class TextPlace(NamedTuple):
    """A text of a request: `number` of the argument `field`, or the only one (None). `part` is what
    is meant of it, if not the text."""

    field: str
    number: int | None = None
    part: str = ""

    def __str__(self) -> str:
        """As in "query", "passages[3]" and "passages[3].image"."""
        number = "" if self.number is None else f"[{self.number}]"
        return f"{self.field}{number}{self.part and f'.{self.part}'}"


class ServingError(Exception):
    """Root of the tree above; its attributes are those of an unexpected failure.

    `message` is the text of classes that always say the same.
    """

    http_status: ClassVar[int] = 500
    grpc_code: ClassVar[str] = "INTERNAL"
    refusal: ClassVar[str | None] = None
    blame: ClassVar[Blame] = "server"
    message: ClassVar[str] = ""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(self.message if message is None else message)

    def __reduce__(self) -> tuple[object, ...]:
        """For pickle, as between processes of Ray: without calling `__init__`, which has other
        arguments in subclasses."""
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]


class InputRejected(ServingError):
    """The request's texts cannot be scored as they are."""

    http_status = 400
    grpc_code = "INVALID_ARGUMENT"
    blame = "caller"


class TextRejected(InputRejected):
    """One text, or its image, cannot be scored: number `index` of `field`, or the only one (None).
    `complaint` is the message without the place."""

    def __init__(self, place: TextPlace, complaint: str) -> None:
        self.field = place.field
        self.index = place.number
        self.complaint = complaint
        super().__init__(f"{place} {complaint}")


class BlankInput(TextRejected):
    """The text has no visible character."""

    def __init__(self, place: TextPlace) -> None:
        super().__init__(place, "is blank; send text with at least one visible character")


class ForbiddenText(TextRejected):
    """The text contains a character that no tokenizer accepts."""

    def __init__(self, place: TextPlace, character: str) -> None:
        super().__init__(place, f"contains {character}; remove it and send the text again")


class InstructionNotTaken(TextRejected):
    """An instruction for a model whose prompt has no place for one."""

    def __init__(self, place: TextPlace) -> None:
        super().__init__(
            place,
            "is not taken: the model's prompt has none; put it into the query, or leave it out",
        )


class NoTokens(TextRejected):
    """The model's tokenizer produces no token for the text."""

    def __init__(self, place: TextPlace) -> None:
        super().__init__(place, "has no tokens; send text that the model's tokenizer knows")


class ImageRejected(TextRejected):
    """The image of a text cannot be looked at."""


class ImageNotAllowed(ImageRejected):
    """An image where there can be none."""

    def __init__(self, place: TextPlace, why: str) -> None:
        super().__init__(place, f"is not taken: {why}; send text")


class InvalidImage(ImageRejected):
    """No image that can be decoded; `reason` says why."""

    def __init__(self, place: TextPlace, reason: str) -> None:
        super().__init__(
            place,
            f"cannot be read as an image ({reason}); send a whole file in PNG, JPEG, WebP, GIF, "
            "BMP or TIFF",
        )


class ImageTooLarge(ImageRejected):
    """An image that is larger than images are looked at."""

    def __init__(self, place: TextPlace, found: str, most: str) -> None:
        super().__init__(place, f"has {found}, wanted at most {most}; send a smaller image")


class TokenizerFailed(InputRejected):
    """A pattern of the tokenizer exceeded the library's limit of retries, at which it panics."""

    message = (
        "the model's tokenizer gave up on a text, on which its patterns backtrack too much; "
        "send a shorter or a more ordinary text"
    )


class NoPassages(InputRejected):
    """An empty list of passages."""

    message = "found 0 passages, wanted at least 1"


class NoInputs(InputRejected):
    """An empty list of texts."""

    message = "found 0 inputs, wanted at least 1"


class InputTypeRequired(InputRejected):
    """A model that embeds queries and passages differently got no input type.

    The message is the NIM's own: clients match on it.
    """

    message = "'input_type' parameter is required for asymmetric models"


class InputTooLong(InputRejected):
    """A pair has `found_tokens` tokens, more than the `max_tokens` allowed, with truncation off.

    The message is the NIM's own: langchain's tests and Elasticsearch match on it.
    """

    http_status = 422

    def __init__(self, found_tokens: int, max_tokens: int) -> None:
        self.found_tokens = found_tokens
        self.max_tokens = max_tokens
        super().__init__(
            f"Input length {found_tokens} exceeds maximum allowed token size {max_tokens}"
        )


class TextTooLarge(InputRejected):
    """A pair with too many characters to tokenise, although it may have few tokens."""

    def __init__(self, found_characters: int, most_characters: int) -> None:
        super().__init__(
            f"found {found_characters} characters, wanted at most {most_characters}; remove long "
            "runs of blanks and the like, or request truncation"
        )


class TooManyTiles(InputRejected):
    """The images of one request have more tiles than it may have."""

    def __init__(self, found: int, most: int) -> None:
        super().__init__(
            f"found images of {found} tiles in one request, wanted at most {most}; send fewer or "
            "smaller images, or raise RERANK_IMAGE_MAX_TILES on the server"
        )


class Unavailable(ServingError):
    """Not now; `retry_after_s` is the runtime's estimate, in seconds, of when to retry."""

    http_status = 503
    grpc_code = "UNAVAILABLE"
    refusal = "other"

    def __init__(self, message: str | None = None, retry_after_s: float = 1.0) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(message)


class Overloaded(Unavailable):
    """Refused at admission: nothing of the request was computed."""

    refusal = "full"
    blame = "admission"


class TooLate(Overloaded):
    """Refused at admission: even alone, the request is predicted to miss its deadline."""

    grpc_code = "RESOURCE_EXHAUSTED"  # a retry would be late as well
    refusal = "deadline"


class DeadlineExceeded(Unavailable):
    """The deadline passed before all rows were scored; the remaining rows are dropped."""

    http_status = 504
    grpc_code = "DEADLINE_EXCEEDED"
    refusal = "expired"
    message = "the request's deadline passed before it was scored; send fewer passages"


class ModelClosed(Unavailable):
    """The model was closed while the request waited."""

    refusal = "shutting_down"
    blame = "admission"
    message = "the model is shutting down"


class OutOfMemory(Unavailable):
    """The device has no memory for an engine call; a smaller one may find room."""

    refusal = "out_of_memory"
    blame = "engine"
    message = (
        "the device has no memory for this request; send shorter texts, or lower "
        "NIM_TRITON_MAX_SEQ_LENGTH on the server"
    )


class DeviceLost(Unavailable):
    """The device failed for good: every later call fails until the process restarts."""

    refusal = "device_lost"
    blame = "engine"
    message = "the device failed and the server needs a new process; retry later"


class EngineUnreachable(Unavailable):
    """A remote engine cannot be reached; it may be back soon."""

    refusal = "engine_away"
    blame = "engine"
    # Addresses belong in the log, not in an answer.
    message = "the engine cannot be reached; send the request again"


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
    """The command would overwrite its input, mix results, or touch somebody else's files."""


class EngineError(ServingError):
    """The engine failed, or gave an invalid output."""

    blame = "engine"


class EngineUnavailable(EngineError):
    """The requested engine cannot run here."""


class EngineThreadEnded(EngineError):
    """The thread that calls the engine has ended; only a new process helps."""

    message = "the thread that calls the engine has ended; restart the process"


class NonFiniteScore(EngineError):
    """The engine's output contains NaN or infinity."""

    def __init__(self, rows: int) -> None:
        super().__init__(
            f"the engine gave NaN or infinity for {rows} row(s); the precision is unfit for "
            "these weights: run `rerank-export verify` on the artifact"
        )
