"""Decoders of Llama's kind that transformers knows by name: classifiers, judges and embedders."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from exporter.pipeline import ExportArgs
from tests.zoo import sentence_files, vocabularies
from tests.zoo.adapters import lora
from tests.zoo.bert import ONE_LABEL, TWO_LABELS
from tests.zoo.case import Case
from tests.zoo.folders import (
    ABSENT,
    config,
    file,
    read_json,
    tokenizer_config,
    write_json,
    write_tokenizer,
)
from tests.zoo.texts import PAIRS
from tests.zoo.weights import FILE, Step, cast, save, seeded, sharded
from tests.zoo.witness import Embedder, Making, Witness, adapted

_SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
}
_NVIDIA = "question:{query} \n \n passage:{passage}"
OTHER_PROMPT = "Query: {query}\nDocument: {passage}"


class Prompted(Witness):
    """transformers' classifier on the prompt; of a text that is too long the passage's end is
    cut."""

    def __init__(self, directory: Path, template: str) -> None:
        self._template = read_json(directory / "training.json").get("prompt_template") or template
        self._tokenizer: Any = AutoTokenizer.from_pretrained(directory, local_files_only=True)
        kind = AutoModelForSequenceClassification
        self.model = kind.from_pretrained(directory, local_files_only=True, dtype=torch.float32)
        self._limit_rows()

    def _limit_rows(self) -> None:
        limit = self.model.config.max_position_embeddings
        self._limit = min(limit, self._tokenizer.model_max_length)

    def numbers(self) -> list[Any]:
        """See Witness."""
        return [self._logit(*pair) for pair in PAIRS]

    def _logit(self, query: str, passage: str) -> float:
        head, tail = self._template.split("{passage}")
        ahead = head.replace("{query}", query) + passage
        found = self._tokenizer(ahead + tail)
        kept = found["input_ids"]
        if len(kept) > self._limit:
            after = kept[found.char_to_token(len(ahead)) :] if tail else []
            kept = kept[: self._limit - len(after)] + after
        return self._score(self.model(input_ids=torch.tensor([kept])).logits[0])

    def _score(self, logits: torch.Tensor) -> float:
        # Of two labels the second counts, the first against it.
        return float(logits[-1] - (logits[0] if len(logits) == 2 else 0))


class Judge(Prompted):
    """transformers' language model on the prompt: the next token's logit of the first word, minus
    that of the second."""

    def __init__(self, directory: Path, template: str, *words: str) -> None:
        self._template = template
        self._tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
        kind = AutoModelForCausalLM
        self.model = kind.from_pretrained(directory, local_files_only=True, dtype=torch.float32)
        self._words = self._tokenizer.convert_tokens_to_ids([*words])
        self._limit_rows()

    def _score(self, logits: torch.Tensor) -> float:
        relevant, other = logits[-1, self._words]
        return float(relevant - other)


def prompted(template: str) -> Making:
    """Prompted with this template, where the folder names none."""
    return lambda directory: Prompted(directory, template)


_BY_NVIDIA = prompted(_NVIDIA)


@dataclass(frozen=True)
class Decoder:
    """One family: the beginning of its classes' names, its type, tokenizer, and keys of config.json
    beside the sizes."""

    name: str
    stem: str
    model_type: str
    config: Mapping[str, Any]
    words: Callable[[], Tokenizer] = vocabularies.llama
    special: tuple[tuple[str, str], ...] = tuple(vocabularies.LLAMA.items())

    def folder(
        self, kind: str, words: Callable[[], Tokenizer] | None = None, **changes: Any
    ) -> Step:
        """Weights of transformers' class of this `kind`, config.json and the tokenizer."""

        def step(directory: Path) -> None:
            tokenizer = (words or self.words)()
            size = tokenizer.get_vocab_size()
            settings = _SIZES | dict(self.config) | {"vocab_size": size} | changes
            whole = CONFIG_MAPPING[self.model_type](**settings).to_dict() | {
                "architectures": [f"{self.stem}{kind}"],
                "model_type": self.model_type,
            }
            write_tokenizer(
                directory,
                tokenizer,
                "PreTrainedTokenizerFast",
                dict(self.special),
                model_input_names=["input_ids", "attention_mask"],
                model_max_length=settings["max_position_embeddings"],
            )
            write_json(directory / "config.json", whole)
            save(seeded(f"{self.stem}{kind}", whole), directory / FILE)

        return step

    def classifier(
        self,
        layout: str,
        *steps: Step,
        witness: Making = _BY_NVIDIA,
        changes: Mapping[str, Any] | None = None,
        **expected: Any,
    ) -> Case:
        """A classifier; `changes` are in config.json before weights are made."""
        base = self.folder("ForSequenceClassification", **ONE_LABEL | dict(changes or {}))
        return Case(f"{self.name} classifier", layout, (base, *steps), witness, **expected)

    def judge(
        self,
        layout: str,
        *steps: Step,
        witness: Making | None = None,
        changes: Mapping[str, Any] | None = None,
        **expected: Any,
    ) -> Case:
        """A language model that answers a question."""
        base = self.folder("ForCausalLM", **dict(changes or {}))
        return Case(f"{self.name} judge", layout, (base, *steps), witness, **expected)

    def embedder(
        self,
        layout: str,
        *steps: Step,
        witness: Making = Embedder,
        words: Callable[[], Tokenizer] | None = None,
        changes: Mapping[str, Any] | None = None,
        **expected: Any,
    ) -> Case:
        """An embedder; sentence-transformers' files come with `steps`."""
        base = self.folder("Model", words, **dict(changes or {}))
        return Case(f"{self.name} embedder", layout, (base, *steps), witness, **expected)


LLAMA = Decoder("Llama", "Llama", "llama", {"rope_theta": 10000.0})
MISTRAL = Decoder("Mistral", "Mistral", "mistral", {"sliding_window": None})
_BOTH_WAYS = {"is_causal": False}
_YARN = {
    "rope_type": "yarn",
    "rope_theta": 1000000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 256,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "llama_4_scaling_beta": 0.1,
}
MINISTRAL = Decoder(
    "Nemotron-3-Embed",
    "Ministral3",
    "ministral3",
    {"max_position_embeddings": 1024, "sliding_window": None, "rope_parameters": _YARN},
)
_PROMPTS = sentence_files.embedder(6, prompts={"query": "query: ", "document": "passage: "})
_SHORT = tokenizer_config(model_max_length=256)

CASES = (
    LLAMA.classifier("fp32"),
    LLAMA.classifier("bf16", cast(torch.bfloat16)),
    LLAMA.classifier("sharded with an index", sharded),
    LLAMA.classifier("is_causal false", changes=_BOTH_WAYS),
    LLAMA.classifier("biases", changes={"attention_bias": True, "mlp_bias": True}),
    LLAMA.classifier("two labels", changes=TWO_LABELS),
    LLAMA.classifier("no grouped queries", changes={"num_key_value_heads": 4}),
    LLAMA.classifier(
        "training.json other prompt", file("training.json", {"prompt_template": OTHER_PROMPT})
    ),
    LLAMA.classifier(
        "adapter beside the base", lora("q_proj", "v_proj"), witness=adapted(_BY_NVIDIA)
    ),
    LLAMA.classifier(
        "CrossEncoder 6, no chat template",
        sentence_files.cross_encoder(),
        refused="--template",
    ),
    MISTRAL.classifier("fp32"),
    MISTRAL.classifier("sliding window", changes={"sliding_window": 16}, refused="sliding_window"),
    MISTRAL.classifier(
        "no word of a window", config(sliding_window=ABSENT), refused="no 'sliding_window'"
    ),
    LLAMA.embedder(
        "saved by NeMo as LlamaModel",
        _PROMPTS,
        changes=_BOTH_WAYS,
    ),
    MINISTRAL.embedder("fp32", _PROMPTS, _SHORT, changes=_BOTH_WAYS),
    MINISTRAL.embedder("bf16", cast(torch.bfloat16), _PROMPTS, _SHORT, changes=_BOTH_WAYS),
    MINISTRAL.embedder(
        "causal, last token", sentence_files.embedder(6, pooling="lasttoken"), _SHORT
    ),
    MINISTRAL.embedder(
        "yarn with scaled angles",
        _PROMPTS,
        config(rope_parameters=_YARN | {"mscale": 0.7}),
        refused="mscale",
    ),
    MINISTRAL.embedder(
        "sliding window", _PROMPTS, config(sliding_window=32), refused="sliding_window"
    ),
    MINISTRAL.embedder(
        "no rms_norm_eps", _PROMPTS, config(rms_norm_eps=ABSENT), refused="no 'rms_norm_eps'"
    ),
    MINISTRAL.embedder(
        "no rope_parameters", _PROMPTS, config(rope_parameters=ABSENT), refused="rope_parameters"
    ),
    MINISTRAL.embedder(
        "a limit past the original positions",
        _PROMPTS,
        args=ExportArgs(max_tokens=512),
        refused="allows 256",
    ),
    LLAMA.embedder("causal, last token", sentence_files.embedder(6, pooling="lasttoken")),
    LLAMA.embedder("causal, mean", sentence_files.embedder(6)),
    LLAMA.embedder("no modules.json", refused="--pooling"),
    MISTRAL.embedder("causal, last token", sentence_files.embedder(6, pooling="lasttoken")),
)
