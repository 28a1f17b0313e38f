"""sentence-transformers' CrossEncoder on PyTorch, with its own batches of 32, sorted by length."""

from typing import Any

import torch
from sentence_transformers import CrossEncoder

from benchmarks.protocol import Score, Setting, answer, templated


def load(setting: Setting) -> Score:
    """The model in the dtype of the options; scores are raw logits."""
    torch.set_num_threads(setting.threads)
    model = (CrossEncoder if setting.template is None else _templated(setting.template))(
        setting.checkpoint,
        device="cpu",
        trust_remote_code=True,
        local_files_only=True,
        max_length=setting.max_tokens,
        model_kwargs={"dtype": getattr(torch, setting.options["dtype"])},
        activation_fn=torch.nn.Identity(),
    )

    def score(query: str, passages: list[str]) -> list[float]:
        pairs = [(query, passage) for passage in passages]
        return [float(one) for one in model.predict(pairs, show_progress_bar=False)]

    return score


def _templated(template: str) -> type[CrossEncoder]:
    class Templated(CrossEncoder):
        """Joins each pair by the family's template, as one text."""

        def preprocess(self, inputs: Any, *arguments: Any, **options: Any) -> Any:
            texts = [templated(template, query, passage) for query, passage in inputs]
            return super().preprocess(texts, *arguments, **options)

    return Templated


if __name__ == "__main__":
    answer(load)
