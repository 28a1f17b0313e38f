"""Check a checkpoint's tokenizer files before transformers reads them."""

from collections.abc import Mapping
from pathlib import Path

from exporter.errors import CheckpointRefused
from exporter.pad_token import named_pad
from runtime.errors import ArtifactError
from runtime.model_files import TOKENIZER_BYTES
from runtime.text import load_tokenizer

# Suffixes of the files that transformers reads for a tokenizer.
_SUFFIXES = (".json", ".txt", ".model", ".jinja")


def check_tokenizer(directory: Path, vocabulary: int) -> None:
    """Raise CheckpointRefused for files that are too large, and for a tokenizer.json with unlimited
    output for a text or with ids past the `vocabulary` of the embeddings (a pad token's id may)."""
    for path in directory.glob("*"):
        if path.suffix in _SUFFIXES and path.is_file() and path.stat().st_size > TOKENIZER_BYTES:
            raise CheckpointRefused(
                f"{path.name} has {path.stat().st_size} bytes, wanted {TOKENIZER_BYTES} at most; "
                "copy or download the checkpoint again"
            )
    path = directory / "tokenizer.json"
    if not path.is_file():
        return  # transformers makes one of other files, and CheckpointTokenizer looks at that
    try:
        tokens = load_tokenizer(path, vocabulary).get_vocab()
    except ArtifactError as error:
        raise CheckpointRefused(
            f"tokenizer.json in {directory} cannot be used: {error.__cause__ or error}; copy the "
            "one that the model was trained with"
        ) from error
    pad = named_pad(directory)
    refuse_unknown_ids({t: i for t, i in tokens.items() if t != pad}, vocabulary)


def refuse_unknown_ids(tokens: Mapping[str, int], vocabulary: int) -> None:
    """Raise CheckpointRefused for a token (text → id) without a row in the embeddings, of which
    there are `vocabulary`."""
    text, largest = max(tokens.items(), key=lambda token: token[1], default=("", -1))
    if largest >= vocabulary:
        raise CheckpointRefused(
            f"the tokenizer has the token {text[:80]!r} as number {largest}, config.json and the "
            f"weights have vocab_size = {vocabulary}; resize the embeddings, or use the tokenizer "
            "that the model was trained with"
        )
