"""What is trained and measured of each family: a row's score does not depend on its batch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from exporter.architectures import CROSS_ENCODERS
from exporter.checkpoint import load_model, read_checkpoint
from recipe.config import FinetuneConfig
from recipe.distillation import check_teacher
from recipe.errors import BadConfig, BadInput
from recipe.evaluation.scorers import CheckpointScorer
from recipe.finetune import _check_base
from recipe.training.checkpoint import (
    TEMPLATED,
    PairBatcher,
    fixed_pooling,
    load_for_transformers,
    pad_as,
)
from recipe.training.groups import Group
from recipe.training.losses import collate, cross_entropy
from tests.tiny_checkpoints import write_bert, write_llama
from tests.tiny_encoders import write_deberta, write_modernbert, write_roberta, write_xlm_roberta
from tests.zoo import vocabularies
from tests.zoo.bert import ONE_LABEL
from tests.zoo.decoders import LLAMA, MISTRAL, Decoder
from tests.zoo.qwen import QWEN2, QWEN3

TEMPLATE = "question:{query} \n \n passage:{passage}"
QUERY = "what is machine learning"
PASSAGES = ("AI", "Machine learning is a subset of AI. " * 3, "Deep learning uses many layers.")
Write = Callable[[Path], Any]


def decoder(family: Decoder, kind: str = "ForSequenceClassification") -> Write:
    """Writes a classifier, or with another `kind` another class of the family."""

    def write(folder: Path) -> None:
        folder.mkdir()
        family.folder(kind, **(ONE_LABEL if "Classif" in kind else {}))(folder)

    return write


def camembert(folder: Path) -> None:
    kind = {"architectures": ["CamembertForSequenceClassification"], "model_type": "camembert"}
    write_roberta(folder, **kind)


FAMILIES: dict[str, Write] = {
    "bert": write_bert,
    "camembert": camembert,
    "deberta": write_deberta,
    "roberta": write_roberta,
    "xlm-roberta": write_xlm_roberta,
    "modernbert, cls": lambda folder: write_modernbert(folder, classifier_pooling="cls"),
    "modernbert, mean": write_modernbert,
    "llama_bidirec, avg": write_llama,
    "llama_bidirec, cls": lambda folder: write_llama(folder, pooling="cls"),
    "llama_bidirec, last": lambda folder: write_llama(folder, pooling="last"),
    "llama": decoder(LLAMA),
    "mistral": decoder(MISTRAL),
    "qwen2": decoder(QWEN2),
    "qwen3": decoder(QWEN3),
}


@pytest.fixture(scope="module", params=FAMILIES.values(), ids=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the family."""
    made = tmp_path_factory.mktemp("family") / "model"
    request.param(made)
    return made


def test_a_row_scores_the_same_alone_beside_a_longer_one_and_exported(folder: Path) -> None:
    checkpoint = read_checkpoint(str(folder))
    template = TEMPLATE if checkpoint.architecture in TEMPLATED else None
    batcher = PairBatcher(checkpoint, template, 64)
    model = load_for_transformers(checkpoint).eval()
    pad_as(model, batcher)
    group = Group("q", QUERY, PASSAGES)
    exported = load_model(checkpoint)
    with torch.no_grad():
        trained = cross_entropy(model, collate(batcher, [group]))[1][0].tolist()
        alone = []
        for passage in PASSAGES:
            row = batcher([(QUERY, passage)])
            row = {
                name: value[:, : int(row["attention_mask"].sum())] for name, value in row.items()
            }
            alone.append([model(**row).logits.item(), exported(*row.values()).item()])
    assert len(set(batcher.lengths([(QUERY, passage) for passage in PASSAGES]))) == 3
    wanted, served = map(list, zip(*alone, strict=True))
    assert trained == pytest.approx(wanted, abs=2e-6)
    assert trained == pytest.approx(served, abs=1e-5)
    scorer = CheckpointScorer(str(folder), template, 64, 8)
    assert scorer.score(QUERY, PASSAGES) == pytest.approx(wanted, abs=2e-6)
    # What is wanted of the settings is what the exporter knows of the architecture.
    pooling = fixed_pooling(checkpoint.architecture) or "avg"
    settings = FinetuneConfig(base_model=str(folder), prompt_template=template, pooling=pooling)
    _check_base(settings)
    if checkpoint.architecture != "LlamaBidirectionalForSequenceClassification":
        with pytest.raises(BadConfig, match=f"set pooling={pooling}"):
            _check_base(FinetuneConfig(base_model=str(folder), prompt_template=template))


def test_every_trainable_family_is_in_the_table() -> None:
    assert len(FAMILIES) - 3 == sum(not kind.judges for kind in CROSS_ENCODERS.values())


@pytest.mark.parametrize("family", [QWEN2, QWEN3], ids=["qwen2", "qwen3"])
def test_a_language_model_is_neither_trained_nor_scored_with_a_random_head(
    family: Decoder, tmp_path: Path
) -> None:
    judge = str(tmp_path / "judge")
    decoder(family, "ForCausalLM")(Path(judge))
    with pytest.raises(BadInput, match=r"language model .* wanted a reranker with a head"):
        _check_base(FinetuneConfig(base_model=judge, pooling="last"))
    with pytest.raises(BadInput, match="export it with rerank-export and name the artifact"):
        CheckpointScorer(judge, TEMPLATE, 64, 8)
    with pytest.raises(BadInput, match="scores by its next token"):
        check_teacher(FinetuneConfig(teacher=judge))


def test_missing_weights_are_not_drawn(tmp_path: Path) -> None:
    file = write_bert(tmp_path / "bert") / "model.safetensors"
    weights = load_file(file)
    del weights["bert.pooler.dense.weight"]
    save_file(weights, file)
    with pytest.raises(BadInput, match=r"found no bert\.pooler\.dense\.weight in .* \(1 weights"):
        load_for_transformers(read_checkpoint(str(file.parent)))


def test_a_pad_token_that_ends_each_row_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    family = QWEN3.folder(
        "ForSequenceClassification", lambda: vocabularies.qwen(adds_eos=True), **ONE_LABEL
    )
    family(folder)
    checkpoint = read_checkpoint(str(folder))
    with pytest.raises(BadInput, match="ends each pair with the token"):
        pad_as(load_for_transformers(checkpoint), PairBatcher(checkpoint, TEMPLATE, 64))
