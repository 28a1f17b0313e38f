"""sentence-transformers' CrossEncoder, with its own batches of 32, sorted by length: on PyTorch, or
on its exported backends (onnx, onnx int8, openvino).

Their graph is made by optimum in their environment and kept in the work folder.
"""

from pathlib import Path
from typing import Any

import torch
from sentence_transformers import CrossEncoder

from benchmarks.protocol import Score, Setting, templated

_INT8 = "avx512_vnni"
# By which it joins pairs itself.
_CHAT_TEMPLATE = "chat_template.jinja"


def load(setting: Setting) -> Score:
    """The model in the dtype or on the backend of the options; scores are raw logits."""
    kind: type[CrossEncoder] = CrossEncoder
    backend = setting.options.get("backend", "torch")
    source = setting.checkpoint
    options: dict[str, Any] = {"backend": backend}
    if backend == "torch":
        torch.set_num_threads(setting.threads)
        options = {"trust_remote_code": True}
        kwargs = {"dtype": getattr(torch, setting.options["dtype"])}
        if setting.template is not None and not (Path(source) / _CHAT_TEMPLATE).is_file():
            kind = _templated(setting.template)
    else:
        source = _exported(setting, backend)
        kwargs = _of_backend(setting, source)
    model = kind(
        source,
        device="cpu",
        local_files_only=True,
        max_length=setting.max_tokens,
        model_kwargs=kwargs,
        activation_fn=torch.nn.Identity(),
        **options,
    )
    return lambda query, passages: model.predict(
        [(query, passage) for passage in passages], show_progress_bar=False
    )


def _templated(template: str) -> type[CrossEncoder]:
    class Templated(CrossEncoder):
        """Joins each pair by the family's template, as one text."""

        def preprocess(self, inputs: Any, *arguments: Any, **options: Any) -> Any:
            texts = [templated(template, query, passage) for query, passage in inputs]
            return super().preprocess(texts, *arguments, **options)

    return Templated


def _exported(setting: Setting, backend: str) -> str:
    """The folder of the exported model, made once."""
    if not (Path(setting.work) / "config.json").is_file():
        options = {"device": "cpu", "backend": backend, "local_files_only": True}
        CrossEncoder(setting.checkpoint, **options).save_pretrained(setting.work)
    return setting.work


def _of_backend(setting: Setting, folder: str) -> dict[str, Any]:
    """The model_kwargs of an exported backend; its own dynamic int8 file is made once."""
    if "hint" in setting.options:
        hint = {"INFERENCE_PRECISION_HINT": setting.options["hint"]}
        return {"ov_config": hint | {"INFERENCE_NUM_THREADS": setting.threads}}
    plain = {"file_name": "onnx/model.onnx"}
    if not setting.options.get("int8"):
        return plain
    name = f"onnx/model_qint8_{_INT8}.onnx"
    if not (Path(folder) / name).is_file():
        from sentence_transformers.backend import export_dynamic_quantized_onnx_model

        options = {"device": "cpu", "backend": "onnx", "local_files_only": True}
        model = CrossEncoder(folder, model_kwargs=plain, **options)
        export_dynamic_quantized_onnx_model(model, _INT8, folder)
    return {"file_name": name}
