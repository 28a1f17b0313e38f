"""Draft the manifest: its facts, from checkpoint, profile, target and options, with origins."""

from dataclasses import dataclass, field

from transformers import CONFIG_MAPPING, PreTrainedTokenizerBase

from exporter import onnxruntime_cuda
from exporter.architectures.base import Architecture, CrossEncoder
from exporter.architectures.nemotron_vl import NemotronVL
from exporter.checkpoint import Checkpoint, outline, places_of
from exporter.embedding_files import ARCHITECTURE
from exporter.errors import CheckpointRefused
from exporter.judge_head import with_head
from exporter.labels import DIFFERENCE
from exporter.model_profile import ChosenProfile, refuse_other_family, refuse_other_kind
from exporter.onnx_file import OPSET
from exporter.options import (
    MAX_TOKENS_OPTION,
    PREFIX_OPTION,
    PROFILE_OPTION,
    TEMPLATE_OPTION,
)
from exporter.origins import key_origin, origins_of
from exporter.pad_token import drop_pad
from exporter.parity import package_versions
from exporter.progress import print_line
from exporter.prompt import TRAINED_LIMIT, TRAINING_FILE, Prompt, find_prompt, training_limit
from exporter.sentence_files import MODEL_FILE, TOKENIZER_CONFIG, is_cross_encoder
from exporter.tokenizer_files import refuse_unknown_ids
from exporter.tokens import TYPES, CheckpointTokenizer, load_tokenizer
from exporter.unread_settings import refuse_unread_keys
from exporter.vision_files import PARTS as VISION_PARTS
from exporter.vision_files import token_ids
from exporter.weights import first
from runtime.manifest import SCHEMA, Manifest, SpecialTokens
from runtime.profile import ModelProfile, TargetProfile
from runtime.shapes import PLACES_INPUT
from runtime.vision.rule import Vision


@dataclass(frozen=True)
class ExportArgs:
    """Arguments of an export. `profile` is a name or the path of a user's own, `target` a name.
    `max_tokens`, `template`, `pooling` (avg, cls or last) and `prefixes` by input type are None for
    what the checkpoint says; `adapter` is the folder or hub id of an adapter to merge.

    `engine` proves the artifact, None for the target's own. `strict` refuses unknown files and keys
    of the checkpoint, and scores that barely differ; `unwitnessed` accepts a checkpoint that no
    witness can load.
    """

    profile: str | None = None
    target: str = "cpu-fp32"
    max_tokens: int | None = None
    engine: str | None = None
    template: Prompt | None = None
    pooling: str | None = None
    prefixes: dict[str, str] | None = None
    strict: bool = False
    unwitnessed: bool = False
    adapter: str | None = None


NO_WISHES = ExportArgs()


@dataclass(frozen=True)
class Draft:
    """A manifest without files and goldens, with the tokenizer and the `checkpoint` that it was
    made with: of a judge with the head that the profile's words choose.

    The other fields are what no witness can find in the folder: `template` is the requested or the
    family's one, with its default instruction; `prefixes` are the requested ones, else None;
    `published` are the family's prefixes, for folders without any; `words` are those of a language
    model's answer.
    """

    manifest: Manifest
    tokenizer: CheckpointTokenizer
    checkpoint: Checkpoint
    template: str | None
    prefixes: dict[str, str] | None = None
    published: dict[str, str] = field(default_factory=dict)
    words: tuple[str, ...] = ()


def draft(
    checkpoint: Checkpoint,
    chosen: ChosenProfile,
    target: TargetProfile,
    args: ExportArgs = NO_WISHES,
) -> Draft:
    """Read everything that decides a score.

    Of `args`, `max_tokens` and `template` take precedence over the folder, `prefixes` are for
    folders without prompts, and `strict` counts; the others were read before.

    Raises CheckpointRefused and ProfileError.
    """
    profile, max_tokens, strict = chosen.facts, args.max_tokens, args.strict
    refuse_other_kind(chosen, checkpoint)
    model = outline(checkpoint)
    refuse_other_family(chosen, model)
    model_type, lower_case = checkpoint.config.get("model_type"), checkpoint.texts.lower_case
    judges = isinstance(model, CrossEncoder) and model.judges
    if judges:
        loaded = load_tokenizer(checkpoint.directory, model_type, lower_case=lower_case)
        checkpoint, judged_by = with_head(checkpoint, chosen, loaded)
    places_of(model, checkpoint.weights)  # its messages have better names than any loader's
    if unread := [name for name in checkpoint.weights if model.is_left_out(name)]:
        print_line(
            "left out weights of a head that "
            f"{checkpoint.architecture} does not have: {first(unread)}"
        )
    refuse_unread_keys(checkpoint.config, strict=strict)
    for part in filter(None, map(checkpoint.config.get, VISION_PARTS if checkpoint.vision else ())):
        refuse_unread_keys(part, strict=strict)
    if not judges:
        loaded = load_tokenizer(checkpoint.directory, model_type, lower_case=lower_case)
    vocabulary = checkpoint.config["vocab_size"]
    if dropped := drop_pad(loaded, vocabulary):
        print_line(
            f"the pad token {dropped!r} has no row in the embeddings ({vocabulary}) and is left out"
            " of the tokenizer: a text that contains it is read as ordinary characters"
        )
    # Tokens of tokenizer.json are already checked; transformers reads other files, too.
    refuse_unknown_ids(loaded.get_vocab(), vocabulary)
    _refuse_types(checkpoint, model, loaded)
    limit, limited_by = _limit(chosen, target, model, checkpoint)
    if max_tokens is not None and max_tokens > limit:
        raise CheckpointRefused(
            f"found {MAX_TOKENS_OPTION} {max_tokens}, but {limited_by} allows {limit}; lower it"
        )
    prompt = _prompt(chosen, checkpoint, loaded, args.template)
    found, prefixed_by = _prefixes(chosen, checkpoint, args.prefixes)
    origins = origins_of(checkpoint, model, loaded, chosen.name)
    usual = checkpoint.architecture in profile.architectures and not chosen.is_own
    origins["profile"] = ARCHITECTURE if usual else PROFILE_OPTION
    origins["max_tokens"] = limited_by if max_tokens is None else MAX_TOKENS_OPTION
    if judges:
        origins["logit"] = judged_by
    if checkpoint.labels.count == 2:
        origins["logit"] = f"two labels of config.json: {DIFFERENCE}"
    if prompt is not None:
        origins["template"] = prompt.origin
        if prompt.instruction is not None:
            origins["instruction"] = prompt.origin if prompt.written else chosen.origin
        if prompt.instruction_format is not None:
            origins["instruction_format"] = chosen.origin
        if prompt.tokenize_apart:
            origins["tokenize_apart"] = chosen.origin
    elif profile.kind == "embed":
        origins["prefixes"] = prefixed_by
    read_as = None if prompt is None else prompt.filled
    tokenizer = CheckpointTokenizer(
        loaded,
        checkpoint.directory,
        read_as,
        max_tokens or limit,
        dropped,
        apart=prompt is not None and prompt.tokenize_apart,
    )
    manifest = Manifest(
        schema=SCHEMA,
        kind=profile.kind,
        model_id=profile.id,
        profile=chosen.name,
        target=target.name,
        version="draft",
        template=None if prompt is None else prompt.template,
        instruction=None if prompt is None else prompt.instruction,
        instruction_format=None if prompt is None else prompt.instruction_format,
        tokenize_apart=prompt is not None and prompt.tokenize_apart,
        special_tokens=_special_tokens(profile, tokenizer, vocabulary),
        padding_side=profile.padding_side,
        max_tokens=max_tokens or limit,
        pooling=model.pooling,
        temperature=model.temperature,
        causal=model.causal,
        normalize=model.normalize,
        dimensions=model.dimensions,
        precision=target.precision,
        inputs=[*model.inputs, *([PLACES_INPUT] if target.packed else [])],
        outputs=[model.output],
        opset=onnxruntime_cuda.OPSET if target.operators == "onnxruntime-cuda" else OPSET,
        versions=package_versions(),
        hardware=None,
        files={},
        goldens=[],
        golden_tolerance=0.0,
        prefixes=found,
        origins=origins,
        activation=checkpoint.activation,
        merged=checkpoint.merged,
        own_profile=profile if chosen.is_own else None,
        vision=_vision(checkpoint, model, loaded),
    )
    unwritten = None if prompt is None or prompt.written else prompt.filled
    requested = args.prefixes if prefixed_by == PREFIX_OPTION else None
    return Draft(
        manifest, tokenizer, checkpoint, unwritten, requested, profile.prefixes, profile.words
    )


def _vision(
    checkpoint: Checkpoint, model: Architecture, tokenizer: PreTrainedTokenizerBase
) -> Vision | None:
    if checkpoint.vision is None:
        return None
    assert isinstance(model, NemotronVL)
    before, context, after = token_ids(tokenizer.get_added_vocab(), checkpoint.config)
    return Vision(
        rule=checkpoint.vision.rule,
        tokens=model.tile_tokens,
        hidden=model.body.hidden,
        before=before,
        context=context,
        after=after,
    )


def _refuse_types(
    checkpoint: Checkpoint, model: Architecture, tokenizer: PreTrainedTokenizerBase
) -> None:
    """transformers feeds the tokenizer's token types to the model; some families here have no
    input for them."""
    known = model.body.types
    if not known or TYPES not in tokenizer.model_input_names:
        return
    texts = ("a", "a") if checkpoint.kind == "rank" and not model.templated else ("a",)
    highest = max(tokenizer(*texts, return_token_type_ids=True)[TYPES])
    taken = known if TYPES in model.inputs else 1
    if highest >= taken:
        raise CheckpointRefused(
            f"the tokenizer feeds the token type {highest}, config.json has type_vocab_size = "
            f"{known}, and {checkpoint.architecture} is exported with {taken} of them; leave "
            f"{TYPES} out of model_input_names in {TOKENIZER_CONFIG} if the model was trained "
            "without them, or take the tokenizer that it was trained with"
        )


def _prompt(
    profile: ChosenProfile,
    checkpoint: Checkpoint,
    tokenizer: PreTrainedTokenizerBase,
    requested: Prompt | None,
) -> Prompt | None:
    """The prompt of a family that reads one text; None where the tokenizer joins the pair."""
    if checkpoint.vision is not None and checkpoint.vision.template is not None:
        if requested is not None:
            raise CheckpointRefused(
                f"found {TEMPLATE_OPTION}, but the prompt of {checkpoint.architecture} stands in "
                "config.json (prompt_template); leave it out"
            )
        return Prompt(checkpoint.vision.template, "config.json (prompt_template)")
    if profile.facts.template is None:
        if requested is not None:
            why = (
                "reads query and passage as its tokenizer joins them; leave it out"
                if profile.facts.kind == "rank"
                else f"embeds one text at a time; name the text before it as {PREFIX_OPTION}"
            )
            raise CheckpointRefused(f"found {TEMPLATE_OPTION}, but {checkpoint.architecture} {why}")
        if profile.facts.kind == "rank" and tokenizer.chat_template:
            raise CheckpointRefused(
                "found a chat_template, by which sentence-transformers would put query and passage "
                f"together; {checkpoint.architecture} is exported as its tokenizer joins them: "
                "remove it if the model was not trained with it"
            )
        return None
    published = Prompt(
        profile.facts.template,
        profile.origin,
        written=False,
        instruction=profile.facts.instruction,
        instruction_format=profile.facts.instruction_format,
        tokenize_apart=profile.facts.tokenize_apart,
    )
    prompt = find_prompt(checkpoint.root, tokenizer, published, requested)
    known = checkpoint.config.get("model_type") in CONFIG_MAPPING
    if prompt is published and known and is_cross_encoder(checkpoint.root):
        raise CheckpointRefused(
            "found sentence-transformers' files and no prompt: it joins query and passage by the "
            f"tokenizer, and {checkpoint.architecture} is exported for one text; name the prompt "
            f"that it was trained with as {TEMPLATE_OPTION}, or save it as chat_template"
        )
    return prompt


def _prefixes(
    profile: ChosenProfile, checkpoint: Checkpoint, requested: dict[str, str] | None
) -> tuple[dict[str, str], str]:
    """The prefixes by input type, and their origin. The folder's take precedence over the
    profile's, even if they are empty.

    The option may not contradict a prompt of the folder. Empty prompts do not count:
    sentence-transformers writes them by default.
    """
    own = checkpoint.vectors.prefixes if checkpoint.vectors else None
    place = f"{MODEL_FILE} (prompts)"
    if requested is not None and profile.facts.kind != "embed":
        raise CheckpointRefused(
            f"found {PREFIX_OPTION}, but {checkpoint.architecture} is a reranker, whose prompt is "
            "its template; leave it out"
        )
    if requested is not None and not own:
        return requested, PREFIX_OPTION
    if own is None:
        return profile.facts.prefixes, profile.origin
    if requested is not None and requested != own:
        raise CheckpointRefused(
            f"found {PREFIX_OPTION} for {requested}, but {place} says {own}; leave the option out, "
            "or correct the file if the model was trained otherwise"
        )
    return own, place


def _special_tokens(
    profile: ModelProfile, tokenizer: CheckpointTokenizer, vocabulary: int
) -> SpecialTokens:
    """The tokenizer's special tokens, refused when the family's are others.

    A comparison would not show it: both sides would read the same wrong prompt.
    """
    specials = tokenizer.special_tokens(vocabulary)
    facts = (
        ("beginning", specials.bos, profile.adds_bos),
        ("end", specials.eos, profile.adds_eos),
    )
    for where, token, wanted in facts:
        if wanted is not None and (token is not None) != wanted:
            raise CheckpointRefused(
                f"the tokenizer adds {'no token' if token is None else f'token {token}'} at the "
                f"{where} of a text, but this family wants {'one' if wanted else 'none'}; check "
                "the post-processor in tokenizer.json, or name another --profile"
            )
    return specials


def _limit(
    profile: ChosenProfile, target: TargetProfile, model: Architecture, checkpoint: Checkpoint
) -> tuple[int, str]:
    """The longest row in tokens, and the origin of that limit."""
    limits = [
        (profile.facts.max_tokens, f"the profile {profile.name}"),
        (model.position_limit, key_origin(checkpoint, "max_tokens")),
        (checkpoint.texts.max_tokens, checkpoint.texts.limited_by),
        (training_limit(checkpoint.root), f"{TRAINING_FILE} ({TRAINED_LIMIT})"),
    ]
    if target.shapes:
        longest = max(shapes.sequence[2] for shapes in target.shapes)
        limits.append((longest, f"the target {target.name}"))
    return min((limit, origin) for limit, origin in limits if limit is not None)
