"""Qwen's decoders: judges (Qwen3-Reranker, mxbai-rerank-v2), classifiers and embedders."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from exporter.pipeline import ExportArgs
from exporter.prompt import Prompt
from tests.zoo import sentence_files, vocabularies
from tests.zoo.adapters import lora
from tests.zoo.bert import TWO_LABELS
from tests.zoo.decoders import OTHER_PROMPT, Decoder, Judge, prompted
from tests.zoo.folders import edited, file, read_json, write_json
from tests.zoo.llama import chat
from tests.zoo.sentence_files import messages
from tests.zoo.weights import cast, changed, dropped, joined, sharded
from tests.zoo.witness import Ranker, adapted

_QWEN: dict[str, Any] = {"max_position_embeddings": 1024, "tie_word_embeddings": False}
_QWEN_WORDS = (vocabularies.qwen, tuple(vocabularies.QWEN.items()))
QWEN2 = Decoder("Qwen2", "Qwen2", "qwen2", _QWEN | {"rope_theta": 1e6}, *_QWEN_WORDS)
QWEN3 = Decoder("Qwen3", "Qwen3", "qwen3", _QWEN | {"rope_theta": 1e6}, *_QWEN_WORDS)
_INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
_HEAD = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and "
    'the Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n'
    "<|im_start|>user\n<Instruct>: "
)
_REST = (
    "\n<Query>: {query}\n<Document>: {passage}<|im_end|>\n<|im_start|>assistant\n"
    "<think>\n\n</think>\n\n"
)
_QWEN3_PROMPT = f"{_HEAD}{_INSTRUCTION}{_REST}"
# What a system message says is the instruction. Jinja drops a file's last newline.
_TOLD = (
    "{%- set told = messages | selectattr('role', 'eq', 'system') "
    "| map(attribute='content') | list %}"
    f"{_HEAD}{{{{ told[0] if told else '{_INSTRUCTION}' }}}}{chat(_REST)}\n"
)
_HELPFUL = (
    "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant."
)
_TASK = (
    "You are a search relevance expert who evaluates how well documents match search queries. "
    "For each query-document pair, carefully analyze the semantic relationship between them, then "
    "provide your binary relevance judgment (0 for not relevant, 1 for relevant).\nRelevance:"
)
_ANSWER = "<|im_end|>\n<|im_start|>assistant\n"
_INSTRUCTED_TASK = (
    f"{_HELPFUL}<|im_end|>\n<|im_start|>user\n"
    f"{{instruction}}query: {{query}}\ndocument: {{passage}}\n{_TASK}{_ANSWER}"
)
# A conversion's model card has other blanks, and a token before the prompt.
_CONVERTED = (
    f"<|endoftext|>{_HELPFUL}\n<|im_end|>\n<|im_start|>user\n"
    f"query: {{query}} \ndocument: {{passage}} \n{_TASK}{_ANSWER}"
)
_YES, _NO = (vocabularies.qwen().token_to_id(word) for word in ("yes", "no"))


def _qwen3(directory: Path) -> Judge:
    return Judge(directory, _QWEN3_PROMPT, "yes", "no")


class Mixedbread(Judge):
    """Reads each part of the prompt by itself, as the package mxbai_rerank does; of a text that is
    too long the passage's end is cut."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, "", "1", "0")

    def _logit(self, query: str, passage: str) -> float:
        return self.told(query, passage, "")

    @torch.inference_mode()
    def told(self, query: str, passage: str, instruction: str) -> float:
        """The logit of a pair with an instruction, or an empty one for none."""
        asked = f"instruction: {instruction}\nquery: {query}" if instruction else f"query: {query}"
        ahead = self._ids(f"{_HELPFUL}<|im_end|>\n<|im_start|>user\n", asked, "\n")
        behind = self._ids("\n", _TASK, _ANSWER)
        kept = self._ids(f"document: {passage}")[: self._limit - len(ahead) - len(behind)]
        row = torch.tensor([[*ahead, *kept, *behind]])
        return self._score(self.model(input_ids=row).logits[0])

    def _ids(self, *parts: str) -> list[int]:
        read = [self._tokenizer(part, add_special_tokens=False)["input_ids"] for part in parts]
        return [one for ids in read for one in ids]


def _ending() -> Tokenizer:
    return vocabularies.qwen(adds_eos=True)


_INSTRUCTED = {"query": f"Instruct: {_INSTRUCTION}\nQuery:", "document": ""}


def _speechless(directory: Path) -> None:
    """A tokenizer that spells yes in letters."""
    path = str(directory / "tokenizer.json")
    saved = read_json(directory / "tokenizer.json")
    merges = saved["model"]["merges"]
    saved["model"]["merges"] = [pair for pair in merges if "".join(pair) not in ("ye", "yes")]
    write_json(Path(path), saved)


CASES = (
    QWEN3.judge("fp32", witness=_qwen3),
    QWEN3.judge("bf16", cast(torch.bfloat16), witness=_qwen3),
    QWEN3.judge("sharded with an index", sharded, witness=_qwen3),
    QWEN3.judge("head tied to the words", changes={"tie_word_embeddings": True}, witness=_qwen3),
    QWEN3.judge(
        "head saved beside the words that it is tied to",
        joined({"lm_head.weight": "model.embed_tokens.weight"}),
        changes={"tie_word_embeddings": True},
        witness=_qwen3,
    ),
    QWEN3.judge(
        "another head beside the words that it is tied to",
        joined({"lm_head.weight": "model.embed_tokens.weight"}),
        changed("lm_head.weight", lambda head: head.flip(0)),
        changes={"tie_word_embeddings": True},
        refused="transformers 5",
    ),
    QWEN3.judge("biases", changes={"attention_bias": True}, witness=_qwen3),
    QWEN3.judge(
        "no head, and none that is tied", dropped("lm_head."), refused="missing: lm_head.weight"
    ),
    QWEN3.judge("words of several tokens", _speechless, refused="wanted one"),
    QWEN3.judge("adapter beside the base", lora("q_proj", "v_proj"), witness=adapted(_qwen3)),
    QWEN3.judge(
        "CrossEncoder 6, LogitScore",
        sentence_files.judge(_YES, _NO),
        file("chat_template.jinja", _TOLD),
        witness=Ranker,
    ),
    QWEN3.judge(
        "CrossEncoder 6, a default prompt",
        sentence_files.judge(
            _YES,
            _NO,
            prompts={"code": "Find code that answers the question."},
            default_prompt_name="code",
        ),
        file("chat_template.jinja", _TOLD),
        witness=Ranker,
    ),
    QWEN3.judge(
        "CrossEncoder 6, LogitScore of one token",
        sentence_files.judge(_YES, None),
        file("chat_template.jinja", chat(OTHER_PROMPT + " Relevant:")),
        witness=Ranker,
    ),
    QWEN3.judge(
        "CrossEncoder 6, a default prompt that the template leaves out",
        sentence_files.judge(_YES, _NO, prompts={"code": "Find."}, default_prompt_name="code"),
        file("chat_template.jinja", chat(OTHER_PROMPT)),
        refused="leaves out",
    ),
    QWEN3.judge(
        "CrossEncoder 6, a token past the vocabulary",
        sentence_files.judge(5000, _NO),
        file("chat_template.jinja", _TOLD),
        refused="names the token 5000",
    ),
    QWEN3.judge(
        "CrossEncoder 6, no LogitScore",
        sentence_files.cross_encoder(),
        refused="wanted Transformer and LogitScore",
    ),
    QWEN3.classifier("fp32", witness=prompted(_QWEN3_PROMPT)),
    QWEN3.classifier("two labels", changes=TWO_LABELS, witness=prompted(_QWEN3_PROMPT)),
    QWEN3.classifier(
        "CrossEncoder 6, chat template",
        sentence_files.cross_encoder(),
        edited("sentence_bert_config.json", modality_config=messages("logits")),
        file("chat_template.jinja", _TOLD),
        witness=Ranker,
    ),
    QWEN3.classifier(
        "sliding window", changes={"use_sliding_window": True}, refused="use_sliding_window"
    ),
    QWEN3.embedder(
        "sentence-transformers 6, last token",
        sentence_files.embedder(6, pooling="lasttoken", prompts=_INSTRUCTED),
        words=_ending,
    ),
    QWEN3.embedder(
        "bf16",
        cast(torch.bfloat16),
        sentence_files.embedder(6, pooling="lasttoken", prompts=_INSTRUCTED),
        words=_ending,
    ),
    QWEN3.embedder(
        "no EOS", sentence_files.embedder(6, pooling="lasttoken"), refused="adds no token"
    ),
    QWEN2.judge("fp32", witness=Mixedbread),
    QWEN2.judge(
        "head tied to the words", changes={"tie_word_embeddings": True}, witness=Mixedbread
    ),
    QWEN2.judge(
        "--template with an instruction",
        witness=Mixedbread,
        args=ExportArgs(template=Prompt(_INSTRUCTED_TASK, "--template", written=False)),
    ),
    QWEN2.classifier("fp32", witness=prompted(_CONVERTED)),
    QWEN2.embedder("causal, mean", sentence_files.embedder(6)),
)
