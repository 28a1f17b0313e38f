"""Families of Llama's kind, each as it differs, with the classifiers and judges that they become.

A classifier has a head of its own. A judge answers by the next token: of its language model's head
one row is read, that of the word for relevant minus that of the other (`exporter.judge_head`).
"""

from typing import ClassVar

from exporter.architectures.config import Config
from exporter.architectures.llama import LastTokenCrossEncoder, Llama
from exporter.errors import CheckpointRefused

_HEADS, _POSITIONS = "num_key_value_heads", "max_position_embeddings"


class Mistral(Llama):
    """Without biases, and without the window of its first version, which an absent key means."""

    required: ClassVar[tuple[str, ...]] = (_HEADS, _POSITIONS)

    @staticmethod
    def _biases(_: Config) -> tuple[bool, bool]:
        return False, False

    @staticmethod
    def _refuse_windows(config: Config) -> None:
        if "sliding_window" not in config:
            raise CheckpointRefused(
                "config.json has no 'sliding_window', which for this architecture means 4096; "
                "windows are not known here: write null if the model was trained without one"
            )
        Llama._refuse_windows(config)


class Ministral(Mistral):
    """Mistral's with yarn, whose queries are not scaled up to the original limit of positions.
    Absent keys would mean angles and a norm of its own."""

    required = (*Mistral.required, "head_dim", "rope_parameters", "rms_norm_eps")

    @staticmethod
    def _refuse_windows(config: Config) -> None:
        Llama._refuse_windows(config)


class Qwen2(Llama):
    """Biases of queries, keys and values; its window is given and not used."""

    required: ClassVar[tuple[str, ...]] = (_HEADS, _POSITIONS)

    @staticmethod
    def _biases(_: Config) -> tuple[bool, bool]:
        return True, False

    @staticmethod
    def _refuse_windows(config: Config) -> None:
        config.refuse_unless("use_sliding_window", False)
        config.get("sliding_window")
        config.get("max_window_layers")
        kinds = config.get("layer_types")
        if kinds is not None:
            config.refuse_unless("layer_types", ["full_attention"] * len(kinds))


class Qwen3(Qwen2):
    """Normalised heads of queries and keys; biases only if config.json asks for them."""

    required = (_HEADS, _POSITIONS, "head_dim")
    normed = True

    @staticmethod
    def _biases(config: Config) -> tuple[bool, bool]:
        return Llama._biases(config)


class LlamaClassifier(LastTokenCrossEncoder):
    """LlamaForSequenceClassification."""

    trunk = Llama


class MistralClassifier(LastTokenCrossEncoder):
    """MistralForSequenceClassification."""

    trunk = Mistral


class Qwen2Classifier(LastTokenCrossEncoder):
    """Qwen2ForSequenceClassification."""

    trunk = Qwen2


class Qwen3Classifier(LastTokenCrossEncoder):
    """Qwen3ForSequenceClassification."""

    trunk = Qwen3


class Qwen2Judge(LastTokenCrossEncoder):
    """Qwen2ForCausalLM that answers by one token (mxbai-rerank-v2)."""

    trunk = Qwen2
    judges = True


class Qwen3Judge(LastTokenCrossEncoder):
    """Qwen3ForCausalLM that answers by one token (Qwen3-Reranker)."""

    trunk = Qwen3
    judges = True
