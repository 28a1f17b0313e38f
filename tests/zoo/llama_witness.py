"""The witness of `llama_bidirec`, whose own class is remote code: transformers' LlamaModel, a mask
that lets every token see all, and head, pooling and prompt as the family publishes them.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaModel, PreTrainedTokenizerFast

from tests.zoo.folders import read_json
from tests.zoo.texts import PAIRS, TEXTS
from tests.zoo.weights import held
from tests.zoo.witness import Witness

_PROMPT = "question:{query} \n \n passage:{passage}"
_PREFIXES = {"query": "query: ", "passage": "passage: "}
_MOST_TOKENS = 8192
# transformers writes a number like 10^30 for "no limit".
_NO_LIMIT = 10**6


class _Llama(Witness):
    def __init__(self, directory: Path) -> None:
        self._config = read_json(directory / "config.json")
        self._training = read_json(directory / "training.json")
        # No row is padded, so that the pad token may have no embedding.
        others = ("architectures", "model_type", "pad_token_id")
        known = {k: v for k, v in self._config.items() if k not in others}
        tensors = held(directory)
        heads = ("score.weight", "lm_head.weight")
        body = {n.removeprefix("model."): t for n, t in tensors.items() if n not in heads}
        model: Any = LlamaModel(LlamaConfig(**known))
        self.model = model.eval()
        self.model.load_state_dict(body)
        self._score = tensors.get("score.weight")
        self._tokenizer: Any = PreTrainedTokenizerFast.from_pretrained(directory)
        named = (
            self._config["max_position_embeddings"],
            self._tokenizer.model_max_length,
            self._training.get("rerank_max_length"),
            read_json(directory / "sentence_bert_config.json").get("max_seq_length"),
        )
        self._limit = min([_MOST_TOKENS, *(n for n in named if n is not None and n < _NO_LIMIT)])

    @torch.no_grad()
    def adapt(self, adapter: Path) -> None:
        """See Witness: W + scale · B A, where peft would not find the names of a whole model."""
        settings = read_json(adapter / "adapter_config.json")
        rank = settings["r"] ** 0.5 if settings["use_rslora"] else settings["r"]
        tensors = load_file(adapter / "adapter_model.safetensors")
        for name, found in tensors.items():
            path = name.removeprefix("base_model.model.").removeprefix("model.")
            if path == "score.weight":
                self._score = found.float()
            elif path.endswith(".lora_A.weight"):
                layer = self.model.get_submodule(path.removesuffix(".lora_A.weight"))
                up = tensors[name.replace("lora_A", "lora_B")]
                layer.weight += settings["lora_alpha"] / rank * up.float() @ found.float()

    def _pooled(self, text: str, pooling: str, stop: int | None = None) -> torch.Tensor:
        """float32 [hidden] of one text, of which too many tokens are cut before the character
        `stop`, where what is never cut begins; None: at its end."""
        found = self._tokenizer(text)
        kept = found["input_ids"]
        if len(kept) > self._limit:
            after = None if stop is None else found.char_to_token(stop)
            tail = [] if after is None else kept[after:]
            kept = kept[: self._limit - len(tail)] + tail
        ids = torch.tensor([kept])
        length = ids.shape[1]
        mask = torch.zeros(length, length)
        if self._config.get("is_causal") or not self._config.get(
            "use_bidirectional_attention", True
        ):
            mask = mask.masked_fill(torch.ones(length, length).triu(1).bool(), float("-inf"))
        states = self.model(input_ids=ids, attention_mask=mask[None, None]).last_hidden_state[0]
        pooled: torch.Tensor = {"avg": states.mean(0), "cls": states[0], "last": states[-1]}[
            pooling
        ]
        return pooled


class LlamaRanker(_Llama):
    """Prompt, pooled states, score, temperature. `template` goes before what the folder says."""

    def __init__(self, directory: Path, template: str | None = None) -> None:
        super().__init__(directory)
        self._template = template

    def numbers(self) -> list[Any]:
        """See Witness."""
        assert self._score is not None
        pooling = self._config.get("pooling") or "avg"
        temperature = self._config.get("temperature") or 1.0
        # Of two labels the second counts, the first against it.
        weights = self._score[-1] - (self._score[0] if len(self._score) == 2 else 0)
        return [
            (weights @ self._pooled(text, pooling, stop) / temperature).item()
            for text, stop in (self._prompt(*pair) for pair in PAIRS)
        ]

    def _prompt(self, query: str, passage: str) -> tuple[str, int]:
        """The text, and where its passage ends."""
        if self._template is None and self._tokenizer.chat_template is not None:
            pair = [
                {"role": "query", "content": query},
                {"role": "document", "content": passage},
            ]
            text = str(self._tokenizer.apply_chat_template(pair, tokenize=False))
            return text, text.rindex(passage) + len(passage)
        template = self._template or self._training.get("prompt_template") or _PROMPT
        head, tail = template.split("{passage}")
        ahead = str(head.replace("{query}", query) + passage)
        return ahead + tail, len(ahead)


class LlamaEmbedder(_Llama):
    """Prefix, pooled states, length 1; sentence-transformers' files say otherwise where they lie
    in the folder, and `pooling` and `prefixes` before both."""

    def __init__(
        self,
        directory: Path,
        pooling: str | None = None,
        prefixes: dict[str, str] | None = None,
    ) -> None:
        super().__init__(directory)
        modules = read_json(directory / "modules.json")
        kinds = [module["type"].rpartition(".")[2] for module in modules]
        self._normalizes = not modules or "Normalize" in kinds
        settings = read_json(directory / "config_sentence_transformers.json") if modules else {}
        self._prefixes = _PREFIXES
        if (prompts := settings.get("prompts")) is not None:
            passages = [prompts.get(name) for name in ("document", "passage", "corpus")]
            self._prefixes = {
                "query": prompts.get("query") or "",
                "passage": next(filter(None, passages), ""),
            }
        if prefixes is not None:
            self._prefixes = prefixes
        self._pooling = pooling or self._config.get("pooling") or "avg"
        self._components = settings.get("truncate_dim")

    def numbers(self) -> list[Any]:
        """See Witness."""
        vectors = [
            self._pooled(self._prefixes.get(kind, "") + text, self._pooling) for text, kind in TEXTS
        ]
        if self._normalizes:
            vectors = [torch.nn.functional.normalize(v, dim=0) for v in vectors]
        return [vector[: self._components].numpy() for vector in vectors]
