"""config.json and processor_config.json of a checkpoint that takes images.

Their own code fills in missing keys with values that the published models do not have, and the
result loads without an error and is wrong. So each key with such a default is wanted here. Where
both files have a key, the processor's counts, as it is the processor that is asked.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exporter.architectures.config import Config, shown
from exporter.architectures.siglip import patches
from exporter.errors import CheckpointRefused
from exporter.progress import print_line
from exporter.sentence_files import MODULES_FILE, TextFacts, read_json, tokenizer_limit
from exporter.unread_settings import PROCESSOR_FILE, log_unknown
from runtime.activation import CONFIG_FILE
from runtime.vision.rule import Grid, TileRule

PARTS = ("vision_config", "llm_config")
BEFORE, CONTEXT, AFTER = "<img>", "<IMG_CONTEXT>", "</img>"
V1 = "v1"
_TEMPLATES = {
    True: "question:{query} \n \n passage:{passage}",
    False: "{query} \n {passage}",
}
# More tiles than any published model was trained with.
_MOST_TILES = 24
_CONVERSATION = "bidirectional-llama-retriever"
_LLAMAS = ("LlamaBidirectionalModel", "LlamaBidirectionalForSequenceClassification")
# Keys that the model's own code does not read, and the values that it behaves as if they had.
_IGNORED = {"ps_version": "v2", "bidirectional_attention": True}
# Without effect on what is computed in evaluation; of the last ones the weights would tell.
_WITHOUT_EFFECT = """
    img_context_token_id q_max_length min_dynamic_patch max_dynamic_patch keep_aspect_ratio
    pre_feature_reduction mlp_checkpoint use_backbone_lora use_llm_lora loss
""".split()
_PROCESSOR_KEYS = frozenset(
    """
    auto_map dynamic_image_size image_size max_input_tiles norm_type num_channels
    num_image_token p_max_length pad_to_multiple_of padding passage_prefix processor_class
    prompt_template q_max_length query_prefix rerank_max_length system_message template
    use_thumbnail
    """.split()
)


@dataclass(frozen=True)
class VisionFacts:
    """What the files say of images and of the texts beside them: the tile `rule`, a reranker's
    `template`, an embedder's `prefixes`, and how `texts` become tokens."""

    rule: TileRule
    template: str | None
    prefixes: dict[str, str] | None
    texts: TextFacts


def read_vision(
    config: Config, root: Path, directory: Path, *, ranks: bool, strict: bool
) -> tuple[Config, VisionFacts]:
    """The config with its parts watched, too, and what it says; `root` is the checkpoint's folder,
    `directory` that of its files. Raises CheckpointRefused."""
    processor = Config(read_json(directory / PROCESSOR_FILE, dict[str, Any], absent={}))
    log_unknown(
        sorted(processor.keys() - _PROCESSOR_KEYS), f"key in {PROCESSOR_FILE}", strict=strict
    )
    config = Config(config)
    for part in PARTS:
        config.require(part)
        config[part] = config.settings(part)
    _refuse_parts(config)
    _refuse_otherwise(config, processor, ranks=ranks)
    _settle_vocabulary(config)
    rule = _rule(config, processor)
    if (root / MODULES_FILE).is_file():
        print_line(
            f"{MODULES_FILE} is not read for a model that takes images: it is exported as its own "
            "code computes it, and an embedder's vectors have any length"
        )
    texts = _texts(directory, config, processor, ranks=ranks)
    if not ranks:
        prefixes = {kind: f"{_prefix(config, processor, kind)} " for kind in ("query", "passage")}
        return config, VisionFacts(rule, None, prefixes, texts)
    prompt = _merged(config, processor)["prompt_template"]
    return config, VisionFacts(rule, _TEMPLATES[prompt == V1], None, texts)


@contextmanager
def within(part: str) -> Iterator[None]:
    """What the block refuses of a config is said to be of this part."""
    try:
        yield
    except CheckpointRefused as error:
        raise CheckpointRefused(f"in {part}: {error}") from error


def grids(most: int) -> list[Grid]:
    """Every (columns, rows) of up to `most` tiles, in the order in which upstream tries them: by
    their number, and of one number as CPython's set of them has it."""
    numbers = range(1, most + 1)
    found = {
        (i, j) for n in numbers for i in range(1, n + 1) for j in range(1, n + 1) if i * j <= most
    }
    return sorted(found, key=lambda grid: grid[0] * grid[1])


def token_ids(tokens: Mapping[str, int], config: Config) -> tuple[int, int, int]:
    """The numbers of <img>, <IMG_CONTEXT> and </img> among the tokenizer's added `tokens`. Raises
    CheckpointRefused."""
    if missing := [text for text in (BEFORE, CONTEXT, AFTER) if text not in tokens]:
        raise CheckpointRefused(
            f"the tokenizer has no added token {', '.join(missing)}, which images stand as in a "
            "text; take the tokenizer that the model was trained with"
        )
    named = config.get("img_context_token_id")
    if named is not None and named != tokens[CONTEXT]:
        raise CheckpointRefused(
            f"config.json has img_context_token_id = {shown(named)}, the tokenizer {CONTEXT} as "
            f"number {tokens[CONTEXT]}; take the tokenizer that the model was trained with"
        )
    return tokens[BEFORE], tokens[CONTEXT], tokens[AFTER]


def _merged(config: Config, processor: Config) -> Config:
    """Both files as one. What the processor has of config.json was looked at."""
    for key in _PROCESSOR_KEYS:
        config.get(key)
    return Config({**config, **processor})


def _refuse_parts(config: Config) -> None:
    vision, llm = config["vision_config"], config["llm_config"]
    for part, key, found, known in (
        ("vision_config", "model_type", vision.get("model_type"), ("siglip_vision_model",)),
        ("llm_config", "model_type", llm.get("model_type"), ("llama_bidirec",)),
        ("llm_config", "architectures", _first(llm.get("architectures")), _LLAMAS),
    ):
        if found not in known:
            raise CheckpointRefused(
                f"{part} in config.json has {key} = {shown(found)}, wanted {' or '.join(known)}; "
                "other models with images are not known here"
            )
    with within("vision_config"):
        patches(vision)


def _first(names: object) -> object:
    return names[0] if isinstance(names, list) and names else names


def _refuse_otherwise(config: Config, processor: Config, *, ranks: bool) -> None:
    """Refuse what is left out or computed otherwise, and say what is ignored."""
    both = _merged(config, processor)
    wanted: list[tuple[Config, str, object]] = [
        (config, "pooling", "last"),  # the processor's is never asked
        (both, "max_input_tiles", 2),
        (both, "dynamic_image_size", False),
        (both, "use_thumbnail", False),
    ]
    if ranks:
        wanted.append((both, "prompt_template", None))
    for place, key, default in wanted:
        if key not in place:
            raise CheckpointRefused(
                f"config.json has no {key!r}, and the model's own code would take {default!r}, "
                "which no published model has; complete the checkpoint"
            )
    _refuse_poolings(config)
    llm = config["llm_config"]
    inner, outer = (part.number("temperature", 1.0) for part in (llm, config))
    if ranks and llm.get("temperature") is not None and inner != outer:
        raise CheckpointRefused(
            f"config.json has temperature = {outer}, and {inner} in llm_config; keep the one that "
            "the model was trained with in both"
        )
    config.refuse_unless("select_layer", -1)
    config.refuse_unless("downsample_ratio", 0.5)
    both.refuse_unless("template", _CONVERSATION)
    size, vision_size = config.get("force_image_size"), config["vision_config"]["image_size"]
    for name, found in (("force_image_size", size), ("image_size", processor.get("image_size"))):
        if found is not None and found != vision_size:
            raise CheckpointRefused(
                f"found {name} = {shown(found)} and image_size = {vision_size} in vision_config, "
                "wanted one size: the table of positions is not interpolated"
            )
    tokens = (patches(config["vision_config"]) // 2) ** 2
    for key, values in (
        ("norm_type", (None, "siglip")),
        ("system_message", (None, "")),
        ("num_channels", (None, 3)),
        ("num_image_token", (None, tokens)),
    ):
        if processor.get(key) not in values:
            raise CheckpointRefused(
                f"{PROCESSOR_FILE} has {key} = {shown(processor[key])}, wanted {values[1]!r}; it "
                "changes what the model is fed, and is not known here"
            )
    for key, value in _IGNORED.items():
        if (found := config.get(key)) is not None and found != value:
            print_line(
                f"config.json has {key} = {shown(found)}, which the model's own code does not "
                f"read: it is exported as with {value!r}"
            )
    for key in _WITHOUT_EFFECT:
        config.get(key)  # known


def _refuse_poolings(config: Config) -> None:
    outer, inner = config["pooling"], config["llm_config"].get("pooling")
    if outer != "avg" or inner not in (None, "avg"):
        told = "" if inner is None else f", and {shown(inner)} in llm_config"
        raise CheckpointRefused(
            f"config.json has pooling = {shown(outer)}{told}, wanted 'avg': no other is known here"
        )


def _settle_vocabulary(config: Config) -> None:
    with within("llm_config"):
        vocabulary = config["llm_config"].whole("vocab_size")
    if config.get("vocab_size") not in (None, -1, vocabulary):
        raise CheckpointRefused(
            f"config.json has vocab_size = {shown(config['vocab_size'])}, and {vocabulary} in "
            "llm_config; keep the one that the weights have"
        )
    config["vocab_size"] = vocabulary


def _rule(config: Config, processor: Config) -> TileRule:
    both = _merged(config, processor)
    most = both.whole("max_input_tiles")
    if most > _MOST_TILES:
        raise CheckpointRefused(
            f"found max_input_tiles = {most}, wanted {_MOST_TILES} at most; no model is known that "
            "was trained with so many"
        )
    dynamic = both.flag("dynamic_image_size", False)
    return TileRule(
        size=config["vision_config"]["image_size"],
        grids=grids(most) if dynamic else [(1, 1)],
        thumbnail=both.flag("use_thumbnail", False),
    )


def _texts(directory: Path, config: Config, processor: Config, *, ranks: bool) -> TextFacts:
    """The longest row: a reranker's by its processor, else by its tokenizer; an embedder's is that
    of passages, which is also what sentence-transformers takes for queries."""
    key = "rerank_max_length" if ranks else "p_max_length"
    limits = [tokenizer_limit(directory)]
    if processor.get(key) is not None:
        limits.append((processor.whole(key), f"{PROCESSOR_FILE} ({key})"))
    elif not ranks and config.get(key) is not None:
        limits.append((config.whole(key), f"{CONFIG_FILE} ({key})"))
    known = [(limit, place) for limit, place in limits if limit is not None]
    limit, place = min(known) if known else (None, "")
    return TextFacts(limit, False, place)


def _prefix(config: Config, processor: Config, kind: str) -> str:
    key = f"{kind}_prefix"
    found = _merged(config, processor).get(key, f"{kind}:")
    if not isinstance(found, str) or not found:
        raise CheckpointRefused(
            f"found {key} = {shown(found)}, wanted a text such as '{kind}:'; complete the "
            "checkpoint"
        )
    return found
