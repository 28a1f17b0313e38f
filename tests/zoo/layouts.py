"""Layouts of the same checkpoint: names of weights, remaining heads, labels, trainers'
folders."""

import os
import shutil
from pathlib import Path

import torch

from tests.zoo import llama, sentence_files
from tests.zoo.adapters import lora
from tests.zoo.bert import TWO_LABELS, embedder, ranker
from tests.zoo.families import DEBERTA, MODERNBERT, ROBERTA, XLM_ROBERTA
from tests.zoo.folders import config, edited, extra_token, file, inside, tokenizer_config
from tests.zoo.llama_witness import LlamaEmbedder, LlamaRanker
from tests.zoo.weights import (
    COMPILED,
    FILE,
    UNCOMPILED,
    Step,
    changed,
    held,
    joined,
    pickled,
    renamed,
    save,
    sharded,
)
from tests.zoo.witness import Embedder, Ranker, adapted, copied

_MEAN = sentence_files.embedder()
_PARALLEL, _ALONE = renamed("^", "module."), renamed(r"^module\.", "")
_BY_LAYER = renamed(r"(layers?\.\d+\.)", r"\1_orig_mod.")
_FSDP = renamed(r"(layers?\.\d+\.)", r"_fsdp_wrapped_module.\1_checkpoint_wrapped_module.")
_UNWRAPPED = renamed(r"_(fsdp|checkpoint)_wrapped_module\.", "")
_WORDS = torch.ones(4, 32)
_GUESSING = joined(
    {
        "cls.predictions.transform.dense.weight": torch.ones(32, 32),
        "cls.predictions.decoder.weight": _WORDS,
        "cls.seq_relationship.weight": torch.ones(2, 32),
    }
)
_DOUBLE = (
    changed("classifier.weight", lambda w: torch.cat([w.flip(1), w])),
    changed("classifier.bias", lambda b: torch.cat([-b, b])),
)


def _beside(*names: str) -> Step:
    """Copies of everything in folders of these names, and nothing else."""

    def step(directory: Path) -> None:
        inside(names[0])(directory)
        for name in names[1:]:
            shutil.copytree(directory / names[0], directory / name)

    return step


def _one_file(directory: Path) -> None:
    """Shards joined again."""
    save(held(directory), directory / FILE)


def _latest(directory: Path) -> None:
    """NeMo's link, here to an older step."""
    os.symlink("epoch_0_step_10", directory / "LATEST")


CASES = (
    ranker("module. before all names", _PARALLEL, witness=copied(Ranker, _ALONE)),
    ranker("_orig_mod. before each layer's", _BY_LAYER, witness=copied(Ranker, UNCOMPILED)),
    ranker("names of FSDP and checkpointing", _FSDP, witness=copied(Ranker, _UNWRAPPED)),
    ranker(
        "_orig_mod.module. before all names",
        _PARALLEL,
        COMPILED,
        witness=copied(Ranker, UNCOMPILED, _ALONE),
    ),
    ranker(
        "two names of one weight",
        joined({"_orig_mod.classifier.weight": "classifier.weight"}),
        refused="which are both classifier.weight",
    ),
    ranker(
        "LayerNorm.gamma beside LayerNorm.weight",
        joined({"bert.embeddings.LayerNorm.gamma": "bert.embeddings.LayerNorm.weight"}),
        refused="which are both bert.embeddings.LayerNorm.weight",
    ),
    ranker("heads of BertForPreTraining kept", _GUESSING),
    ranker(
        "a head that nobody knows",
        joined({"other_head.weight": _WORDS}),
        refused="unexpected: other_head.weight",
    ),
    embedder("_orig_mod. before all names", COMPILED, _MEAN, witness=copied(Embedder, UNCOMPILED)),
    embedder(
        "LayerNorm.gamma and beta",
        renamed(r"LayerNorm\.weight", "LayerNorm.gamma"),
        renamed(r"LayerNorm\.bias", "LayerNorm.beta"),
        _MEAN,
    ),
    embedder("heads of BertForPreTraining kept", renamed("^", "bert."), _GUESSING, _MEAN),
    embedder(
        "a classifier's head kept",
        joined({"classifier.weight": torch.ones(1, 32)}),
        _MEAN,
        refused="unexpected: classifier.weight",
    ),
    XLM_ROBERTA.embedder(
        "lm_head kept",
        joined({"lm_head.dense.weight": torch.ones(32, 32), "lm_head.bias": torch.ones(4)}),
        _MEAN,
    ),
    ROBERTA.ranker("lm_head kept", joined({"lm_head.dense.weight": torch.ones(32, 32)})),
    MODERNBERT.embedder(
        "heads of ModernBertForMaskedLM kept",
        renamed("^", "model."),
        joined({"head.dense.weight": torch.ones(32, 32), "decoder.weight": _WORDS}),
        _MEAN,
    ),
    MODERNBERT.ranker(
        "a bias that its head has not",
        joined({"head.dense.bias": torch.ones(32)}),
        refused="unexpected: head.dense.bias",
    ),
    DEBERTA.ranker(
        "heads of DebertaV2ForMaskedLM kept",
        joined(
            {
                "cls.predictions.bias": torch.ones(4),
                "lm_predictions.lm_head.bias": torch.ones(4),
                "mask_predictions.dense.weight": torch.ones(32, 32),
            }
        ),
    ),
    llama.embedder(
        "_orig_mod. before all names", COMPILED, witness=copied(LlamaEmbedder, UNCOMPILED)
    ),
    llama.ranker(
        "_orig_mod. in shards with an index",
        COMPILED,
        sharded,
        witness=copied(LlamaRanker, _one_file, UNCOMPILED),
    ),
    ranker(
        "two labels, not named",
        config(id2label={"0": "LABEL_0", "1": "LABEL_1"}, label2id={"LABEL_0": 0, "LABEL_1": 1}),
        *_DOUBLE,
    ),
    ranker(
        "two labels by num_labels", config(id2label=None, label2id=None, num_labels=2), *_DOUBLE
    ),
    ranker("two labels by default", config(id2label=None, label2id=None), *_DOUBLE),
    ranker(
        "two labels, CrossEncoder 6, Identity",
        *_DOUBLE,
        config(**TWO_LABELS),
        sentence_files.cross_encoder(activation_fn="torch.nn.modules.linear.Identity"),
    ),
    ranker(
        "two labels, Sigmoid of each",
        *_DOUBLE,
        config(**TWO_LABELS),
        sentence_files.cross_encoder(activation_fn="torch.nn.modules.activation.Sigmoid"),
        refused="wanted one of: torch.nn.modules.linear.Identity",
    ),
    ranker(
        "two labels, the relevant one first",
        *_DOUBLE,
        config(id2label={"0": "relevant", "1": "irrelevant"}),
        refused="label 0 'relevant'",
    ),
    ranker(
        "two labels that do not exclude each other",
        *_DOUBLE,
        config(**TWO_LABELS, problem_type="multi_label_classification"),
        refused="problem_type",
    ),
    ranker(
        "two labels, an adapter beside the base",
        *_DOUBLE,
        config(**TWO_LABELS),
        lora("query", "value"),
        witness=adapted(Ranker),
    ),
    ranker(
        "_orig_mod. in the base, an adapter beside it",
        lora("query", "value"),
        COMPILED,
        witness=copied(adapted(Ranker), UNCOMPILED),
    ),
    ranker(
        "folder of three checkpoints",
        _beside("checkpoint-500", "checkpoint-1500", "checkpoint-900"),
        refused="checkpoint-1500: export that",
    ),
    ranker("two folders without numbers", _beside("best", "last"), refused="export one"),
    llama.ranker(
        "NeMo's folder of steps",
        _beside(
            "epoch_0_step_10/model/consolidated",
            "epoch_1_step_5/model/consolidated",
            "epoch_0_step_20/model/consolidated",
        ),
        _latest,
        refused="epoch_1_step_5/model/consolidated: export that",
    ),
    embedder(
        "pytorch_model.bin beside safetensors", _MEAN, file("pytorch_model.bin", b"\x80\x02.")
    ),
    MODERNBERT.embedder("pytorch_model.bin only", _MEAN, pickled, refused="weights_only=True"),
    llama.embedder(
        "pad token past the vocabulary",
        extra_token("[PAD]", resized=False),
        tokenizer_config(pad_token="[PAD]"),
        edited("special_tokens_map.json", pad_token="[PAD]"),
    ),
    llama.ranker(
        "EOS past the vocabulary",
        extra_token("[EOS]", resized=False),
        tokenizer_config(pad_token="[EOS]", eos_token="[EOS]"),
        refused="vocab_size",
    ),
    embedder(
        "flat vectors",
        changed("encoder.layer.1.output.LayerNorm.weight", lambda w: w * 1e-4),
        _MEAN,
    ),
)
