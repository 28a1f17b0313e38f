"""The architectures that can be exported, by their name in config.json.

Each is written here as plain tensor functions: a checkpoint's own code never runs. A new
architecture is one file with classes like those below and one row in `CROSS_ENCODERS`, and one
in `BODIES` if checkpoints without a head are embedding models.
"""

from exporter.architectures.base import Body, CrossEncoder
from exporter.architectures.bert import Bert, BertCrossEncoder
from exporter.architectures.deberta import DebertaCrossEncoder
from exporter.architectures.decoders import (
    LlamaClassifier,
    Ministral,
    Mistral,
    MistralClassifier,
    Qwen2,
    Qwen2Classifier,
    Qwen2Judge,
    Qwen3,
    Qwen3Classifier,
    Qwen3Judge,
)
from exporter.architectures.gemma import Gemma
from exporter.architectures.llama import BidirectionalLlama, Llama, LlamaCrossEncoder
from exporter.architectures.modernbert import ModernBert, ModernBertCrossEncoder
from exporter.architectures.nemotron_vl import (
    NemotronVL,
    NemotronVLCrossEncoder,
    NemotronVLEmbedder,
)
from exporter.architectures.xlm_roberta import Roberta, RobertaCrossEncoder

CROSS_ENCODERS: dict[str, type[CrossEncoder]] = {
    "BertForSequenceClassification": BertCrossEncoder,
    "CamembertForSequenceClassification": RobertaCrossEncoder,
    "DebertaV2ForSequenceClassification": DebertaCrossEncoder,
    "LlamaBidirectionalForSequenceClassification": LlamaCrossEncoder,
    "LlamaForSequenceClassification": LlamaClassifier,
    "MistralForSequenceClassification": MistralClassifier,
    "ModernBertForSequenceClassification": ModernBertCrossEncoder,
    "Qwen2ForCausalLM": Qwen2Judge,
    "Qwen2ForSequenceClassification": Qwen2Classifier,
    "Qwen3ForCausalLM": Qwen3Judge,
    "Qwen3ForSequenceClassification": Qwen3Classifier,
    "RobertaForSequenceClassification": RobertaCrossEncoder,
    "XLMRobertaForSequenceClassification": RobertaCrossEncoder,
}
BODIES: dict[str, type[Body]] = {
    "BertModel": Bert,
    "CamembertModel": Roberta,
    "Gemma3TextModel": Gemma,
    "LlamaBidirectionalModel": BidirectionalLlama,
    "LlamaModel": Llama,
    "Ministral3Model": Ministral,
    "MistralModel": Mistral,
    "ModernBertModel": ModernBert,
    "Qwen2Model": Qwen2,
    "Qwen3Model": Qwen3,
    "RobertaModel": Roberta,
    "XLMRobertaModel": Roberta,
}
# Two graphs each: one of texts, one of images.
VISION: dict[str, type[NemotronVL]] = {
    "LlamaNemotronVLForSequenceClassification": NemotronVLCrossEncoder,
    "LlamaNemotronVLModel": NemotronVLEmbedder,
}
