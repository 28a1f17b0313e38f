"""optimum's results: runs in a separate environment, imports none of ours.

Reads checkpoint, folder and pairs from the JSON file named first; exports the checkpoint into the
folder and writes versions, tokens and PyTorch's logits of the pairs, one unpadded row a call, to
the file named second.
"""

import importlib.metadata
import json
import sys
from pathlib import Path

import torch
from optimum.exporters.onnx import main_export
from transformers import AutoModelForSequenceClassification, AutoTokenizer

PACKAGES = ("optimum", "optimum-onnx", "transformers", "torch")


def main(asked: str, answered: str) -> None:
    """Answer one file."""
    question = json.loads(Path(asked).read_text())
    checkpoint = question["checkpoint"]
    main_export(checkpoint, question["out"], task="text-classification", device="cpu")
    tokenizer = AutoTokenizer.from_pretrained(checkpoint, local_files_only=True)
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint, local_files_only=True)
    rows = [
        tokenizer(
            query,
            passage,
            truncation="only_second",
            max_length=question["max_tokens"],
            return_tensors="pt",
        )
        for query, passage in question["pairs"]
    ]
    with torch.inference_mode():
        logits = [float(model.eval()(**row).logits) for row in rows]
    answer = {
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "token_ids": [row["input_ids"][0].tolist() for row in rows],
        "type_ids": [row["token_type_ids"][0].tolist() for row in rows],
        "logits": logits,
    }
    Path(answered).write_text(json.dumps(answer))


if __name__ == "__main__":
    main(*sys.argv[1:])
