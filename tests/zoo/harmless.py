"""Keys of config.json and files that real folders have and that change no score."""

from typing import Any

from tests.zoo.folders import file

KEYS: dict[str, Any] = {
    "_name_or_path": "somebody/base",
    "transformers_version": "4.44.0",
    "torch_dtype": "float32",
    "use_cache": True,
    "problem_type": None,
    "initializer_range": 0.02,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "classifier_dropout": 0.1,
    "gradient_checkpointing": False,
    "tie_word_embeddings": True,
}
FILES = (
    file("README.md", "# A model\n"),
    file(".gitattributes", "*.bin filter=lfs\n"),
    file("added_tokens.json", {}),
    file("trainer_state.json", {"best_metric": 0.5}),
    file("training_args.bin", b"\x80\x02."),
    file("optimizer.pt", b"\x80\x02."),
    file("onnx/model.onnx", b"\x08"),
    file("openvino/openvino_model.bin", b"\x00"),
    file("eval/results.csv", "epoch,steps\n"),
    file("checkpoint-500/config.json", {"model_type": "gpt2"}),
    file("tf_model.h5", b"\x89HDF"),
)
