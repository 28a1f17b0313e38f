"""The architectures that can be exported, by their name in config.json.

Each is written here as plain tensor functions: a checkpoint's own code never runs. A new
architecture is one file with a class like those below and one row in `ARCHITECTURES`.
"""

from collections.abc import Callable, Mapping
from typing import Any

from exporter.architectures.base import Architecture
from exporter.architectures.bert import BertCrossEncoder
from exporter.architectures.llama_bidirectional import BidirectionalLlama

ARCHITECTURES: dict[str, Callable[[Mapping[str, Any]], Architecture]] = {
    "BertForSequenceClassification": BertCrossEncoder,
    "LlamaBidirectionalForSequenceClassification": BidirectionalLlama,
}
