"""What a checkpoint, a profile and a target decide before anything is computed: the manifest's
facts, and where each of them was read."""

from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from exporter import onnxruntime_cuda
from exporter.adapter import ADAPTER_CONFIG
from exporter.architectures.base import Architecture
from exporter.checkpoint import Checkpoint, outline, places_of
from exporter.errors import CheckpointRefused
from exporter.folder import refuse_unread_keys
from exporter.onnx_file import OPSET
from exporter.parity import package_versions
from exporter.prompt import TRAINING_FILE, Prompt, find_prompt, training_limit
from exporter.sentence_files import MODEL_FILE
from exporter.tokenizer_files import refuse_unknown_ids
from exporter.tokens import TYPES, CheckpointTokenizer, load_tokenizer
from runtime.errors import ProfileError
from runtime.manifest import SCHEMA, Manifest, SpecialTokens
from runtime.profile import (
    ModelProfile,
    TargetProfile,
    load_model_profile,
    model_profile_names,
)


@dataclass(frozen=True)
class Draft:
    """A manifest without files and goldens, and the tokenizer that it was made with.

    `template` is the prompt that no witness can find in the folder: a wish, or the family's.
    """

    manifest: Manifest
    tokenizer: CheckpointTokenizer
    template: str | None


def draft(
    checkpoint: Checkpoint,
    profile_name: str,
    target: TargetProfile,
    *,
    max_tokens: int | None = None,
    template: str | None = None,
    strict: bool = False,
) -> Draft:
    """Read everything that decides a score. `max_tokens` and `template` are wishes that go before
    what the folder says; `strict` refuses what nobody knows.

    Raises CheckpointRefused and ProfileError.
    """
    profile = load_model_profile(profile_name)
    refuse_other_kind(profile, profile_name, checkpoint)
    model = outline(checkpoint)
    _refuse_other_family(profile, profile_name, model)
    places_of(model, checkpoint.weights)  # its names say more than any loader's
    refuse_unread_keys(checkpoint.config, strict=strict)
    model_type, lower_case = checkpoint.config.get("model_type"), checkpoint.texts.lower_case
    loaded = load_tokenizer(checkpoint.directory, model_type, lower_case=lower_case)
    # Those of tokenizer.json are known to have rows; transformers reads other files too.
    refuse_unknown_ids(loaded.get_vocab(), checkpoint.config["vocab_size"])
    _refuse_types(checkpoint, model, loaded)
    limit, limited_by = _limit(profile, target, model, checkpoint)
    if max_tokens is not None and max_tokens > limit:
        raise CheckpointRefused(
            f"found a wish for {max_tokens} tokens, but {limited_by} allows {limit}; lower "
            "--max-tokens"
        )
    prompt = _prompt(profile, profile_name, checkpoint, loaded, template)
    prefixes, prefixed_by = _prefixes(profile, profile_name, checkpoint)
    origins = {"max_tokens": limited_by if max_tokens is None else "--max-tokens"}
    if prompt is not None:
        origins["template"] = prompt.origin
    if profile.kind == "embed":
        origins["prefixes"] = prefixed_by
    if checkpoint.adapter is not None:
        base = checkpoint.adapter.base or checkpoint.base.name
        origins["weights"] = f"a LoRA adapter ({ADAPTER_CONFIG}) merged into its base {base}"
    read_as = None if prompt is None else prompt.template
    tokenizer = CheckpointTokenizer(loaded, checkpoint.directory, read_as, max_tokens or limit)
    manifest = Manifest(
        schema=SCHEMA,
        kind=profile.kind,
        model_id=profile.id,
        profile=profile_name.rsplit("/", 1)[-1],
        target=target.name,
        version="draft",
        template=read_as,
        special_tokens=_special_tokens(profile, tokenizer, checkpoint.config["vocab_size"]),
        padding_side=profile.padding_side,
        max_tokens=max_tokens or limit,
        pooling=model.pooling,
        temperature=model.temperature,
        causal=model.causal,
        normalize=model.normalize,
        dimensions=model.dimensions,
        precision=target.precision,
        inputs=list(model.inputs),
        outputs=[model.output],
        opset=onnxruntime_cuda.OPSET if target.operators == "onnxruntime-cuda" else OPSET,
        versions=package_versions(),
        hardware=None,
        files={},
        goldens=[],
        golden_tolerance=0.0,
        prefixes=prefixes,
        origins=origins,
        activation=checkpoint.activation,
        merged=checkpoint.merged,
    )
    unwritten = None if prompt is None or prompt.written else prompt.template
    return Draft(manifest, tokenizer, unwritten)


def profile_for(architecture: str) -> str:
    """The one profile for this architecture. Raises ProfileError."""
    names = model_profile_names()
    fitting = [n for n in names if architecture in load_model_profile(n).architectures]
    if len(fitting) != 1:
        raise ProfileError(
            f"found {len(fitting)} profiles for the architecture {architecture}, wanted one; "
            f"choose with --profile: {', '.join(names)}"
        )
    return fitting[0]


def refuse_other_kind(profile: ModelProfile, name: str, checkpoint: Checkpoint) -> None:
    """Raise ProfileError for a profile of another kind of model."""
    if profile.kind != checkpoint.kind:
        words = {"rank": "rerankers", "embed": "embedders"}
        raise ProfileError(
            f"profile {name} is for {words[profile.kind]}, but {checkpoint.architecture} is one of "
            f"the {words[checkpoint.kind]}; leave --profile out, or name one of its kind"
        )


def _refuse_other_family(profile: ModelProfile, name: str, model: Architecture) -> None:
    """A template is for models that read one text; the others' tokenizer joins the pair."""
    if (profile.template is not None) != model.templated:
        raise ProfileError(
            f"profile {name} {'has no' if profile.template is None else 'has a'} template, but the "
            f"checkpoint's model reads {'one text' if model.templated else 'two texts'}; leave "
            "--profile out, or name one of this family"
        )


def _refuse_types(
    checkpoint: Checkpoint, model: Architecture, tokenizer: PreTrainedTokenizerBase
) -> None:
    """transformers would feed types to a model that knows several; here is no input for them."""
    types = checkpoint.config.get("type_vocab_size") or 0
    if types > 1 and TYPES in tokenizer.model_input_names and TYPES not in model.inputs:
        raise CheckpointRefused(
            f"config.json has type_vocab_size = {types} and the tokenizer feeds {TYPES}, which "
            f"{checkpoint.architecture} is exported without; wanted one type"
        )


def _prompt(
    profile: ModelProfile,
    name: str,
    checkpoint: Checkpoint,
    tokenizer: PreTrainedTokenizerBase,
    wished: str | None,
) -> Prompt | None:
    """The prompt of a family that reads one text; None where the tokenizer joins the pair."""
    if profile.template is None:
        if wished is not None:
            raise CheckpointRefused(
                f"found --template, but {checkpoint.architecture} reads query and passage as its "
                "tokenizer joins them; leave it out"
            )
        if profile.kind == "rank" and tokenizer.chat_template:
            raise CheckpointRefused(
                "found a chat_template, by which sentence-transformers would put query and passage "
                f"together; {checkpoint.architecture} is exported as its tokenizer joins them: "
                "remove it if the model was not trained with it"
            )
        return None
    published = Prompt(profile.template, f"the profile {name}, not witnessed", written=False)
    return find_prompt(checkpoint.root, tokenizer, published, wished)


def _prefixes(
    profile: ModelProfile, name: str, checkpoint: Checkpoint
) -> tuple[dict[str, str], str]:
    """What is put before texts, by input type, and where that stands: the folder's own goes first,
    even if it is nothing."""
    own = checkpoint.vectors.prefixes if checkpoint.vectors else None
    if own is not None:
        return own, MODEL_FILE
    return profile.prefixes, f"the profile {name}, not witnessed"


def _special_tokens(
    profile: ModelProfile, tokenizer: CheckpointTokenizer, vocabulary: int
) -> SpecialTokens:
    """The tokenizer's special tokens, refused when the family's are others.

    Both sides of every comparison would read the same wrong prompt.
    """
    specials = tokenizer.special_tokens(vocabulary)
    facts = (
        ("beginning", specials.bos, profile.adds_bos),
        ("end", specials.eos, profile.adds_eos),
    )
    for where, token, wanted in facts:
        if (token is not None) != wanted:
            raise CheckpointRefused(
                f"the tokenizer adds {'no token' if token is None else f'token {token}'} at the "
                f"{where} of a text, but this family wants {'one' if wanted else 'none'}; check "
                "the post-processor in tokenizer.json, or name another --profile"
            )
    return specials


def _limit(
    profile: ModelProfile, target: TargetProfile, model: Architecture, checkpoint: Checkpoint
) -> tuple[int, str]:
    """The longest row in tokens, and what allows no more."""
    bounds = [
        (profile.max_tokens, "the profile"),
        (model.position_limit, "config.json"),
        (checkpoint.texts.max_tokens, "the tokenizer's or sentence-transformers' settings"),
        (training_limit(checkpoint.root), TRAINING_FILE),
    ]
    if target.shapes:
        bounds.append((max(shapes.sequence[2] for shapes in target.shapes), "the target"))
    return min((bound, why) for bound, why in bounds if bound is not None)
