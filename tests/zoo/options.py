"""Facts that no file of a folder says, given as options of the export."""

from functools import partial
from pathlib import Path

from exporter.pipeline import ExportArgs
from exporter.prompt import Prompt
from tests.zoo import bert, llama, sentence_files
from tests.zoo.case import Case
from tests.zoo.families import MODERNBERT, XLM_ROBERTA
from tests.zoo.folders import ABSENT, config, file, tokenizer_config, without
from tests.zoo.llama_witness import LlamaEmbedder, LlamaRanker
from tests.zoo.witness import BareEmbedder, Embedder

_PROFILES = Path(__file__).with_name("profiles")
_RANKS, _EMBEDS = (str(_PROFILES / f"own-{kind}.toml") for kind in ("rerank", "embed"))
# Two special tokens of the tokenizer's, a newline before words and a tail.
_TAILED = "<|end_of_text|>Query: {query}\nDocument: {passage}<|end_of_text|>\nRelevant:"
# The tail's first letters may be one token with the passage's last.
_GLUED = "{query} is answered by {passage}ing of passages"
_PREFIXES = {"query": "question: ", "passage": "answer: "}
_E5 = {"query": "query: ", "passage": "passage: "}
_NEMOTRON_8B = {
    "query": "Instruct: Given a question, retrieve passages that answer the question\nQuery: ",
    "passage": "",
}
_QUERIES = {"query": "Find: ", "passage": ""}


def _template(text: str) -> ExportArgs:
    return ExportArgs(template=Prompt(text, "--template", written=False))


def _trained(template: str) -> dict[str, object]:
    return {"prompt_template": template, "rerank_max_length": 128}


_TEMPLATES = (
    *(
        llama.ranker(
            f"--template with a tail{name}",
            witness=partial(LlamaRanker, template=template),
            args=_template(template),
        )
        for name, template in (("", _TAILED), (", glued to the passage", _GLUED))
    ),
    llama.ranker(
        "--template beside another prompt in training.json",
        file("training.json", _trained("{query} {passage}")),
        witness=partial(LlamaRanker, template=_TAILED),
        args=_template(_TAILED),
    ),
    llama.ranker("training.json, a prompt with a tail", file("training.json", _trained(_TAILED))),
    llama.ranker(
        "chat template with a tail",
        tokenizer_config(chat_template=llama.chat(_TAILED), model_max_length=128),
    ),
    llama.ranker("--template without a passage", args=_template("{query}"), refused="{passage}"),
    bert.ranker("--template", args=_template(_TAILED), refused="found --template"),
    bert.embedder(
        "--template",
        sentence_files.embedder(),
        args=_template(_TAILED),
        refused="--prefix",
    ),
)
_POOLINGS = (
    *(
        bert.embedder(
            f"no sentence-transformers files, --pooling {pooling}",
            witness=partial(BareEmbedder, pooling=pooling),
            args=ExportArgs(pooling=pooling),
        )
        for pooling in ("avg", "cls", "last")
    ),
    XLM_ROBERTA.embedder(
        "no sentence-transformers files, --pooling cls",
        witness=partial(BareEmbedder, pooling="cls"),
        args=ExportArgs(pooling="cls"),
    ),
    MODERNBERT.embedder(
        "no sentence-transformers files, --pooling avg",
        witness=partial(BareEmbedder, pooling="avg"),
        args=ExportArgs(pooling="avg"),
    ),
    bert.embedder(
        "no sentence-transformers files, --pooling and --prefix",
        witness=partial(BareEmbedder, pooling="cls", prefixes=_PREFIXES),
        args=ExportArgs(pooling="cls", prefixes=_PREFIXES),
    ),
    bert.embedder(
        "--pooling as modules.json says", sentence_files.embedder(), args=ExportArgs(pooling="avg")
    ),
    bert.embedder(
        "--pooling unlike modules.json",
        sentence_files.embedder(),
        args=ExportArgs(pooling="cls"),
        refused="--pooling cls, but 1_Pooling/config.json",
    ),
    bert.ranker("--pooling", args=ExportArgs(pooling="cls"), refused="--pooling"),
    llama.embedder(
        "--pooling last",
        config(pooling=ABSENT),
        witness=partial(LlamaEmbedder, pooling="last"),
        args=ExportArgs(pooling="last"),
    ),
    llama.embedder(
        "--pooling unlike config.json",
        args=ExportArgs(pooling="last"),
        refused="--pooling last, but config.json (pooling) says avg",
    ),
)
_PUBLISHED = (
    *(
        family.embedder(
            "--profile e5",
            sentence_files.embedder(),
            without("config_sentence_transformers.json"),
            witness=partial(Embedder, prompts=_E5),
            args=ExportArgs(profile="e5"),
        )
        for family in (bert, XLM_ROBERTA)
    ),
    llama.embedder(
        "--profile llama-embed-nemotron-8b",
        witness=partial(LlamaEmbedder, prefixes=_NEMOTRON_8B),
        args=ExportArgs(profile="llama-embed-nemotron-8b"),
    ),
)
_PREFIXED = (
    bert.embedder(
        "--prefix, no prompts",
        sentence_files.embedder(),
        without("config_sentence_transformers.json"),
        witness=partial(Embedder, prompts=_PREFIXES),
        args=ExportArgs(prefixes=_PREFIXES),
    ),
    bert.embedder(
        "--prefix of queries, prompts empty",
        sentence_files.embedder(6),
        witness=partial(Embedder, prompts=_QUERIES),
        args=ExportArgs(prefixes=_QUERIES),
    ),
    bert.embedder(
        "--prefix unlike its prompts",
        sentence_files.embedder(6, prompts={"query": "Find: ", "document": "Text: "}),
        args=ExportArgs(prefixes=_QUERIES),
        refused="--prefix",
    ),
    bert.embedder(
        "--prefix as its prompts",
        sentence_files.embedder(6, prompts={"query": "Find: ", "document": ""}),
        args=ExportArgs(prefixes=_QUERIES),
    ),
    bert.ranker("--prefix", args=ExportArgs(prefixes=_PREFIXES), refused="--prefix"),
    llama.embedder(
        "--prefix",
        witness=partial(LlamaEmbedder, prefixes=_PREFIXES),
        args=ExportArgs(prefixes=_PREFIXES),
    ),
    llama.embedder(
        "--prefix of nothing",
        witness=partial(LlamaEmbedder, prefixes={}),
        args=ExportArgs(prefixes={}),
    ),
    llama.embedder(
        "--prefix, prompts empty",
        sentence_files.embedder(6),
        witness=partial(LlamaEmbedder, prefixes=_PREFIXES),
        args=ExportArgs(prefixes=_PREFIXES),
    ),
)
_OWN_PROFILES = (
    llama.ranker(
        "a profile of one's own",
        tokenizer_config(model_max_length=128),
        witness=partial(LlamaRanker, template=_TAILED.removeprefix("<|end_of_text|>")),
        args=ExportArgs(profile=_RANKS),
    ),
    llama.ranker(
        "a profile of one's own, training.json",
        file("training.json", _trained(_TAILED)),
        args=ExportArgs(profile=_RANKS),
    ),
    bert.ranker(
        "a profile of one's own for another kind", args=ExportArgs(profile=_EMBEDS), refused="kind"
    ),
    llama.ranker(
        "a profile of one's own that is not there",
        args=ExportArgs(profile="no-such.toml"),
        refused="no-such.toml",
    ),
    bert.embedder(
        "a profile of one's own, no prompts",
        sentence_files.embedder(max_seq_length=64),
        without("config_sentence_transformers.json"),
        witness=partial(Embedder, prompts=_PREFIXES),
        args=ExportArgs(profile=_EMBEDS),
    ),
    bert.embedder(
        "a profile of one's own, prompts empty",
        sentence_files.embedder(6, max_seq_length=64),
        tokenizer_config(model_max_length=64),
        args=ExportArgs(profile=_EMBEDS),
    ),
)
CASES: tuple[Case, ...] = (*_TEMPLATES, *_POOLINGS, *_PREFIXED, *_PUBLISHED, *_OWN_PROFILES)
