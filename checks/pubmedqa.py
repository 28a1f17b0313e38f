"""`make check-pubmedqa PAIRS=FILE`: does fine-tuning the embedded reranker help on PubMedQA?

    python -m checks.pubmedqa PAIRS.jsonl FOLDER

PAIRS.jsonl has a line {"id", "question", "passage"} for each question and the one abstract that
answers it. A fifth is held out, and the stages prep, finetune and eval run on the configuration
beside this file. Prints the difference of the fine-tuned model from the base with its 95 % interval
and p, and fails where a measure is worse by more than chance. LOG.md has one result.
"""

import sys
from pathlib import Path

from recipe.cli import WORSE
from recipe.cli import main as rerank
from recipe.evaluation.pairs import known_pairs, sentences
from recipe.evaluation.results import read_results
from recipe.evaluation.session import open_session
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
    if code not in (0, WORSE):
        sys.exit(code)
    found = read_results(folder / "eval")
    print(", ".join(f"{name} {one.NDCG['NDCG@10']:.4f}" for name, one in found.items()))
    pair = known_pairs(open_session(folder / "eval").measured(found))[0]
    print(" ".join(sentences(pair)))
    sys.exit(code)


if __name__ == "__main__":
    with exit_on_refusal():
        main()
