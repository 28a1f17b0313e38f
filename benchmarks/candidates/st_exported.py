"""sentence-transformers' CrossEncoder on its exported backends: onnx, onnx int8, openvino.

The graph is made by optimum in this environment and kept in the work folder.
"""

from pathlib import Path
from typing import Any

import torch
from sentence_transformers import CrossEncoder
from sentence_transformers.backend import export_dynamic_quantized_onnx_model

from benchmarks.protocol import Score, Setting, answer

_INT8 = "avx512_vnni"


def load(setting: Setting) -> Score:
    """The backend of the options; scores are raw logits."""
    backend = setting.options["backend"]
    folder = Path(setting.work)
    if not (folder / "config.json").is_file():
        CrossEncoder(
            setting.checkpoint, device="cpu", backend=backend, local_files_only=True
        ).save_pretrained(str(folder))
    kwargs: dict[str, Any]
    if backend == "openvino":
        hint = {"INFERENCE_PRECISION_HINT": setting.options["hint"]}
        kwargs = {"ov_config": hint | {"INFERENCE_NUM_THREADS": setting.threads}}
    elif setting.options.get("int8"):
        kwargs = {"file_name": _quantized(folder)}
    else:
        kwargs = {"file_name": "onnx/model.onnx"}
    model = CrossEncoder(
        str(folder),
        device="cpu",
        backend=backend,
        local_files_only=True,
        max_length=setting.max_tokens,
        model_kwargs=kwargs,
        activation_fn=torch.nn.Identity(),
    )

    def score(query: str, passages: list[str]) -> list[float]:
        pairs = [(query, passage) for passage in passages]
        return [float(one) for one in model.predict(pairs, show_progress_bar=False)]

    return score


def _quantized(folder: Path) -> str:
    """Its own dynamic int8 file of the model in `folder`, made once."""
    name = f"onnx/model_qint8_{_INT8}.onnx"
    if not (folder / name).is_file():
        model = CrossEncoder(
            str(folder),
            device="cpu",
            backend="onnx",
            local_files_only=True,
            model_kwargs={"file_name": "onnx/model.onnx"},
        )
        export_dynamic_quantized_onnx_model(model, _INT8, str(folder))
    return name


if __name__ == "__main__":
    answer(load)
