"""What is known of a served model."""

from dataclasses import dataclass

from runtime.profile import Kind


@dataclass(frozen=True)
class ModelInfo:
    """Facts about a served model.

    `max_tokens` bounds one pair or text; `max_rows` and `token_budget` (rows × longest row) bound
    one engine call. `version` is the artifact's content hash, `engine_version` the version of the
    engine's library. `proven` says whether an export proved these scores against `witness`, an
    independent loader; `witness` is "not witnessed" and the reason where there was none.

    Embedders: `dimensions` is the size of a vector; `asymmetric` models embed queries and passages
    differently. `images` says whether passages may be images.
    """

    kind: Kind
    model_id: str
    version: str
    profile: str
    target: str
    engine: str
    engine_version: str
    device: str
    precision: str
    pooling: str
    max_tokens: int
    max_rows: int
    token_budget: int
    template: str | None
    mock: bool
    proven: bool
    witness: str
    dimensions: int | None = None
    asymmetric: bool = False
    images: bool = False
