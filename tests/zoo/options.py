"""What no file of a folder says, said as options of the export."""

from functools import partial
from pathlib import Path

from exporter.pipeline import Wish
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
_QUERIES = {"query": "Find: ", "passage": ""}


def _template(text: str) -> Wish:
    return Wish(template=Prompt(text, "--template", written=False))


def _trained(template: str) -> dict[str, object]:
    return {"prompt_template": template, "rerank_max_length": 128}


_TEMPLATES = (
    *(
        llama.ranker(
            f"--template with a tail{name}",
            witness=partial(LlamaRanker, template=template),
            wish=_template(template),
        )
        for name, template in (("", _TAILED), (", glued to the passage", _GLUED))
    ),
    llama.ranker(
        "--template beside another prompt in training.json",
        file("training.json", _trained("{query} {passage}")),
        witness=partial(LlamaRanker, template=_TAILED),
        wish=_template(_TAILED),
    ),
    llama.ranker("training.json, a prompt with a tail", file("training.json", _trained(_TAILED))),
    llama.ranker(
        "chat template with a tail",
        tokenizer_config(chat_template=llama.chat(_TAILED), model_max_length=128),
    ),
    llama.ranker("--template without a passage", wish=_template("{query}"), refused="{passage}"),
    bert.ranker("--template", wish=_template(_TAILED), refused="found --template"),
    bert.embedder(
        "--template",
        sentence_files.embedder(),
        wish=_template(_TAILED),
        refused="--prefix",
    ),
)
_POOLINGS = (
    *(
        bert.embedder(
            f"no sentence-transformers files, --pooling {pooling}",
            witness=partial(BareEmbedder, pooling=pooling),
            wish=Wish(pooling=pooling),
        )
        for pooling in ("avg", "cls", "last")
    ),
    XLM_ROBERTA.embedder(
        "no sentence-transformers files, --pooling cls",
        witness=partial(BareEmbedder, pooling="cls"),
        wish=Wish(pooling="cls"),
    ),
    MODERNBERT.embedder(
        "no sentence-transformers files, --pooling avg",
        witness=partial(BareEmbedder, pooling="avg"),
        wish=Wish(pooling="avg"),
    ),
    bert.embedder(
        "no sentence-transformers files, --pooling and --prefix",
        witness=partial(BareEmbedder, pooling="cls", prefixes=_PREFIXES),
        wish=Wish(pooling="cls", prefixes=_PREFIXES),
    ),
    bert.embedder(
        "--pooling as modules.json says", sentence_files.embedder(), wish=Wish(pooling="avg")
    ),
    bert.embedder(
        "--pooling unlike modules.json",
        sentence_files.embedder(),
        wish=Wish(pooling="cls"),
        refused="--pooling cls, but 1_Pooling/config.json",
    ),
    bert.ranker("--pooling", wish=Wish(pooling="cls"), refused="--pooling"),
    llama.embedder(
        "--pooling last",
        config(pooling=ABSENT),
        witness=partial(LlamaEmbedder, pooling="last"),
        wish=Wish(pooling="last"),
    ),
    llama.embedder(
        "--pooling unlike config.json",
        wish=Wish(pooling="last"),
        refused="--pooling last, but config.json (pooling) says avg",
    ),
)
_PREFIXED = (
    bert.embedder(
        "--prefix, no prompts",
        sentence_files.embedder(),
        without("config_sentence_transformers.json"),
        witness=partial(Embedder, prompts=_PREFIXES),
        wish=Wish(prefixes=_PREFIXES),
    ),
    bert.embedder(
        "--prefix of queries, prompts empty",
        sentence_files.embedder(6),
        witness=partial(Embedder, prompts=_QUERIES),
        wish=Wish(prefixes=_QUERIES),
    ),
    bert.embedder(
        "--prefix unlike its prompts",
        sentence_files.embedder(6, prompts={"query": "Find: ", "document": "Text: "}),
        wish=Wish(prefixes=_QUERIES),
        refused="--prefix",
    ),
    bert.embedder(
        "--prefix as its prompts",
        sentence_files.embedder(6, prompts={"query": "Find: ", "document": ""}),
        wish=Wish(prefixes=_QUERIES),
    ),
    bert.ranker("--prefix", wish=Wish(prefixes=_PREFIXES), refused="--prefix"),
    llama.embedder(
        "--prefix",
        witness=partial(LlamaEmbedder, prefixes=_PREFIXES),
        wish=Wish(prefixes=_PREFIXES),
    ),
    llama.embedder(
        "--prefix of nothing",
        witness=partial(LlamaEmbedder, prefixes={}),
        wish=Wish(prefixes={}),
    ),
    llama.embedder(
        "--prefix, prompts empty",
        sentence_files.embedder(6),
        witness=partial(LlamaEmbedder, prefixes=_PREFIXES),
        wish=Wish(prefixes=_PREFIXES),
    ),
)
_OWN_PROFILES = (
    llama.ranker(
        "a profile of one's own",
        tokenizer_config(model_max_length=128),
        witness=partial(LlamaRanker, template=_TAILED.removeprefix("<|end_of_text|>")),
        wish=Wish(profile=_RANKS),
    ),
    llama.ranker(
        "a profile of one's own, training.json",
        file("training.json", _trained(_TAILED)),
        wish=Wish(profile=_RANKS),
    ),
    bert.ranker(
        "a profile of one's own for another kind", wish=Wish(profile=_EMBEDS), refused="kind"
    ),
    llama.ranker(
        "a profile of one's own that is not there",
        wish=Wish(profile="no-such.toml"),
        refused="no-such.toml",
    ),
    bert.embedder(
        "a profile of one's own, no prompts",
        sentence_files.embedder(max_seq_length=64),
        without("config_sentence_transformers.json"),
        witness=partial(Embedder, prompts=_PREFIXES),
        wish=Wish(profile=_EMBEDS),
    ),
    bert.embedder(
        "a profile of one's own, prompts empty",
        sentence_files.embedder(6, max_seq_length=64),
        tokenizer_config(model_max_length=64),
        wish=Wish(profile=_EMBEDS),
    ),
)
CASES: tuple[Case, ...] = (*_TEMPLATES, *_POOLINGS, *_PREFIXED, *_OWN_PROFILES)
