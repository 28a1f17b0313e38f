"""XLM-R, RoBERTa, ModernBERT and DeBERTa: cross-encoders and embedders."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, processors

from tests.zoo import harmless, sentence_files, vocabularies
from tests.zoo.families import CAMEMBERT, DEBERTA, FULL, MODERNBERT, ROBERTA, SLIDING, XLM_ROBERTA
from tests.zoo.folders import ABSENT, config, edited, file, tokenizer_config, without
from tests.zoo.sentence_files import dense
from tests.zoo.weights import cast, dropped, joined, renamed


def _vocabulary_and_merges(directory: Path) -> None:
    """vocab.json and merges.txt in place of tokenizer.json."""
    Tokenizer.from_file(str(directory / "tokenizer.json")).model.save(str(directory))
    (directory / "tokenizer.json").unlink()


def _types_of_pairs(directory: Path) -> None:
    """A tokenizer that tells query from passage, and says so."""
    path = str(directory / "tokenizer.json")
    tokenizer = Tokenizer.from_file(path)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> $B:1 </s>:1",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    tokenizer.save(path)
    names = ["input_ids", "token_type_ids", "attention_mask"]
    tokenizer_config(tokenizer_class="PreTrainedTokenizerFast", model_input_names=names)(directory)


def _older_name(directory: Path) -> None:
    """The name that the first versions gave to the Transformer module's own settings."""
    (directory / "sentence_bert_config.json").rename(directory / "sentence_roberta_config.json")


def _fused(directory: Path) -> None:
    """jina-reranker-v2's weights: one projection for query, key and value, and code of its own."""
    renamed(r"attention\.self\.query\.", "mixer.Wqkv.")(directory)
    config(auto_map={"AutoModel": "modeling.XLMRobertaModel"})(directory)


_ROPE_5 = {
    FULL: {"rope_theta": 160000.0, "rope_type": "default"},
    SLIDING: {"rope_theta": 10000.0, "rope_type": "default"},
}
_GELU = "torch.nn.modules.activation.GELU"
_ETTIN = (
    dense("2_Dense", 32, 32, bias=False, activation_function=_GELU),
    sentence_files.layer_norm("3_LayerNorm", 32),
    dense("4_Dense", 32, 1, module_output_name="scores"),
)
_OTHERS = (
    XLM_ROBERTA.ranker(
        "tokenizer.json of transformers 4",
        vocabularies.older_normalizer,
    ),
    XLM_ROBERTA.embedder(
        "tokenizer.json of transformers 4",
        vocabularies.older_normalizer,
        sentence_files.embedder(),
    ),
    DEBERTA.ranker(
        "tokenizer.json of transformers 4",
        vocabularies.older_normalizer,
    ),
    XLM_ROBERTA.embedder("no pooler in the weights", dropped("pooler."), sentence_files.embedder()),
    XLM_ROBERTA.ranker(
        "a pooler that nothing reads",
        joined(
            {
                "roberta.pooler.dense.weight": torch.ones(32, 32),
                "roberta.pooler.dense.bias": torch.ones(32),
            }
        ),
    ),
    DEBERTA.ranker(
        "absolute positions that nothing reads",
        joined({"deberta.embeddings.position_embeddings.weight": torch.ones(256, 32)}),
    ),
    XLM_ROBERTA.ranker(
        "keys left at their defaults",
        config(
            hidden_act=ABSENT,
            type_vocab_size=ABSENT,
            pad_token_id=ABSENT,
            bos_token_id=ABSENT,
            eos_token_id=ABSENT,
        ),
        changes={"type_vocab_size": 2},
    ),
    XLM_ROBERTA.ranker(
        "keys and files that change nothing",
        config(**harmless.KEYS, output_past=True, position_embedding_type="absolute"),
        *harmless.FILES,
    ),
    MODERNBERT.ranker(
        "keys left at their defaults",
        config(
            norm_eps=ABSENT,
            hidden_activation=ABSENT,
            classifier_activation=ABSENT,
            global_rope_theta=ABSENT,
            local_rope_theta=ABSENT,
        ),
    ),
    MODERNBERT.ranker(
        "keys and files that change nothing",
        config(
            **harmless.KEYS,
            reference_compile=False,
            deterministic_flash_attn=False,
            sparse_prediction=False,
            sparse_pred_ignore_index=-100,
            decoder_bias=True,
            embedding_dropout=0.0,
            mlp_dropout=0.0,
            attention_dropout=0.0,
            norm_bias=False,
            attention_bias=False,
            mlp_bias=False,
            classifier_bias=False,
            initializer_cutoff_factor=2.0,
            position_embedding_type="absolute",
        ),
        *harmless.FILES,
    ),
    DEBERTA.ranker(
        "keys left at their defaults",
        config(
            hidden_act=ABSENT,
            layer_norm_eps=ABSENT,
            pooler_hidden_act=ABSENT,
            type_vocab_size=ABSENT,
            max_relative_positions=ABSENT,
        ),
    ),
    DEBERTA.ranker(
        "keys and files that change nothing",
        config(**harmless.KEYS, pooler_dropout=0.0, cls_dropout=0.0, legacy=True),
        *harmless.FILES,
    ),
    XLM_ROBERTA.ranker(
        "sentencepiece only", vocabularies.sentencepiece_only("sentencepiece.bpe.model")
    ),
    XLM_ROBERTA.embedder(
        "sentencepiece only",
        vocabularies.sentencepiece_only("sentencepiece.bpe.model"),
        sentence_files.embedder(),
    ),
    DEBERTA.ranker("sentencepiece only", vocabularies.sentencepiece_only("spm.model")),
    XLM_ROBERTA.ranker(
        "a sentencepiece model of another family's name",
        vocabularies.sentencepiece_only("spm.model"),
        refused="wanted sentencepiece.bpe.model",
    ),
    XLM_ROBERTA.ranker(
        "a sentencepiece model without words",
        without("tokenizer.json"),
        file("sentencepiece.bpe.model", b"\x0a\x00"),
        refused="no vocabulary",
    ),
    XLM_ROBERTA.ranker(
        "a sentencepiece model that is broken",
        without("tokenizer.json"),
        file("sentencepiece.bpe.model", b"no model"),
        refused="not a sentencepiece model",
    ),
    XLM_ROBERTA.ranker("jina's fused weights", _fused, refused="unexpected"),
    XLM_ROBERTA.ranker("two token types, none fed", changes={"type_vocab_size": 2}),
    XLM_ROBERTA.embedder(
        "do_lower_case",
        sentence_files.embedder(),
        edited("sentence_bert_config.json", do_lower_case=True),
    ),
    ROBERTA.embedder(
        "max_seq_length 64 in sentence_roberta_config.json",
        sentence_files.embedder(max_seq_length=64),
        _older_name,
    ),
    ROBERTA.ranker("vocab.json and merges.txt only", _vocabulary_and_merges),
    ROBERTA.ranker(
        "add_prefix_space unlike tokenizer.json",
        tokenizer_config(add_prefix_space=True),
    ),
    *(
        family.ranker("is_causal true", config(is_causal=True), refused="is_causal")
        for family in (XLM_ROBERTA, MODERNBERT)
    ),
    ROBERTA.ranker("is_decoder", config(is_decoder=True), refused="is_decoder"),
    MODERNBERT.ranker("no model_input_names", tokenizer_config(model_input_names=ABSENT)),
    MODERNBERT.ranker(
        "layer_types beside global_attn_every_n_layers",
        config(layer_types=[FULL, FULL], global_attn_every_n_layers=2),
    ),
    MODERNBERT.ranker("classifier_pooling cls", changes={"classifier_pooling": "cls"}),
    MODERNBERT.ranker(
        "keys of transformers 5",
        config(
            global_rope_theta=ABSENT,
            local_rope_theta=ABSENT,
            global_attn_every_n_layers=ABSENT,
            rope_parameters=_ROPE_5,
            layer_types=[FULL, SLIDING],
        ),
    ),
    MODERNBERT.ranker(
        "contradictory rope",
        config(
            rope_parameters={
                kind: {"rope_theta": 500.0, "rope_type": "default"} for kind in (FULL, SLIDING)
            }
        ),
        refused="rope_theta",
    ),
    MODERNBERT.ranker(
        "rope_scaling", config(rope_scaling={"type": "yarn", "factor": 2.0}), refused="rope_scaling"
    ),
    MODERNBERT.ranker(
        "biases",
        changes={
            "norm_bias": True,
            "attention_bias": True,
            "mlp_bias": True,
            "classifier_bias": True,
        },
    ),
    *(
        family.modular(
            "ettin",
            sentence_files.modular("Dense", "LayerNorm", "Dense"),
            *_ETTIN,
        )
        for family in (MODERNBERT, XLM_ROBERTA)
    ),
    MODERNBERT.modular(
        "mean",
        sentence_files.modular("Dense", pooling="mean"),
        dense("2_Dense", 32, 1, module_output_name="scores"),
    ),
    MODERNBERT.modular(
        "bf16",
        cast(torch.bfloat16),
        sentence_files.modular("Dense", "LayerNorm", "Dense"),
        *_ETTIN,
    ),
    MODERNBERT.modular(
        "no scores",
        sentence_files.modular("Dense"),
        dense("2_Dense", 32, 1),
        refused="gives 'sentence_embedding'",
    ),
    MODERNBERT.modular(
        "three scores",
        sentence_files.modular("Dense"),
        dense("2_Dense", 32, 3, module_output_name="scores"),
        refused="gives 3 scores",
    ),
    MODERNBERT.modular(
        "default prompt",
        sentence_files.modular("Dense", prompts={"q": "find: "}, default_prompt_name="q"),
        dense("2_Dense", 32, 1, module_output_name="scores"),
        refused="default_prompt_name",
    ),
    DEBERTA.ranker("two token types", changes={"type_vocab_size": 2}),
    DEBERTA.ranker(
        "one token type, none fed",
        tokenizer_config(model_input_names=["input_ids", "attention_mask"]),
        changes={"type_vocab_size": 1},
    ),
    DEBERTA.ranker(
        "one token type, two fed", changes={"type_vocab_size": 1}, refused="type_vocab_size = 1"
    ),
    XLM_ROBERTA.ranker(
        "one token type, zeros fed",
        tokenizer_config(model_input_names=["input_ids", "token_type_ids", "attention_mask"]),
    ),
    XLM_ROBERTA.ranker(
        "two token types, zeros fed",
        tokenizer_config(model_input_names=["input_ids", "token_type_ids", "attention_mask"]),
        changes={"type_vocab_size": 2},
    ),
    DEBERTA.ranker(
        "two token types, none fed",
        tokenizer_config(model_input_names=["input_ids", "attention_mask"]),
        changes={"type_vocab_size": 2},
    ),
    DEBERTA.ranker(
        "do_lower_case unlike tokenizer.json",
        tokenizer_config(do_lower_case=True),
    ),
    DEBERTA.ranker("no buckets", changes={"position_buckets": -1}),
    DEBERTA.ranker(
        "absolute positions", config(position_biased_input=True), refused="position_biased_input"
    ),
    DEBERTA.ranker("one kind of distance", config(pos_att_type=["c2p"]), refused="pos_att_type"),
    ROBERTA.ranker(
        "two token types, both fed",
        _types_of_pairs,
        changes={"type_vocab_size": 2},
        refused="token_type_ids",
    ),
)
CASES = (
    *XLM_ROBERTA.rankers(),
    *XLM_ROBERTA.embedders(),
    *ROBERTA.rankers(),
    *ROBERTA.embedders(),
    CAMEMBERT.ranker("fp32"),
    CAMEMBERT.ranker("bf16", cast(torch.bfloat16)),
    CAMEMBERT.embedder("sentence-transformers 3, mean", sentence_files.embedder()),
    *MODERNBERT.rankers(),
    *MODERNBERT.embedders(),
    *DEBERTA.rankers(),
    *_OTHERS,
)
