"""`make check-pubmedqa PAIRS=FILE`: does fine-tuning the embedded reranker help on PubMedQA?

    python -m checks.pubmedqa PAIRS.jsonl FOLDER

PAIRS.jsonl has a line {"id", "question", "passage"} for each question and the one abstract that
answers it. A fifth is held out, and the stages prep, finetune and eval run on the configuration
beside this file. Raises when the fine-tuned
model's nDCG@10 is not above the base's. LOG.md has one result.
"""

import sys
from pathlib import Path

from recipe.cli import main as rerank
from recipe.evaluation.results import read_results
from runtime.outputs import exit_on_refusal, refuse_inputs

CONFIG = Path(__file__).with_suffix(".toml")


def main() -> None:
    """Run the three stages in FOLDER and compare."""
    if len(sys.argv) != 3:
        sys.exit(f"found {len(sys.argv) - 1} arguments, wanted PAIRS.jsonl and FOLDER:\n{__doc__}")
    pairs, folder = map(Path, sys.argv[1:])
    if not pairs.is_file():
        sys.exit(f"found no file {pairs}; name PubMedQA's pairs: make check-pubmedqa PAIRS=FILE")
    refuse_inputs(folder, pairs)
    checkpoints = f"{folder}/finetune/checkpoints"
    settings = [
        f"prep.data={pairs}",
        f"prep.output_dir={folder}/prep",
        f"prep.embedder_dir={folder}/embedders",
        f"finetune.train_data_path={folder}/prep/train_mined.automodel_unrolled.json",
        f"finetune.checkpoint_dir={checkpoints}",
        f"eval.finetuned_model_path={checkpoints}/LATEST/model/consolidated",
        f"eval.embedder_dir={folder}/embedders",
        f"eval.eval_data_path={folder}/prep/eval_beir",
        f"eval.output_dir={folder}/eval",
    ]
    code = rerank(["run", "-c", str(CONFIG), "--from", "prep", "--to", "eval", *settings])
    if code:
        sys.exit(code)
    found = {name: one.NDCG["NDCG@10"] for name, one in read_results(folder / "eval").items()}
    print(", ".join(f"{name} {figure:.4f}" for name, figure in found.items()))
    if found["finetuned"] <= found["base"]:
        sys.exit("fine-tuning did not help")


if __name__ == "__main__":
    with exit_on_refusal():
        main()
