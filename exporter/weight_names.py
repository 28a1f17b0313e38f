"""Normalize the names of a checkpoint's tensors.

Training wrappers put a prefix of their own before the names of the wrapped model; TensorFlow called
a norm's weight and bias gamma and beta, which transformers still accepts.
"""

import re
from collections.abc import Mapping

from exporter.errors import CheckpointRefused
from exporter.progress import print_line
from exporter.weights import Stored

# torch.compile, FSDP and gradient checkpointing wrap any module, DataParallel a whole model.
_NAMES = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
_WRAPPERS = re.compile(rf"(?:^|(?<=\.))(?:{'|'.join(_NAMES)})\.")
_PARALLEL = "module."
# The same for transformers' from_pretrained, which otherwise reports such weights as missing.
KEY_MAPPING = {**{rf"\b{name}\.": "" for name in _NAMES}, r"^module\.": ""}
_OLD = re.compile(r"(?<=\bLayerNorm\.)(?:gamma|beta)$")
_NEW = {"gamma": "weight", "beta": "bias"}


def plain_names(tensors: Mapping[str, Stored]) -> dict[str, Stored]:
    """`tensors` by their plain names; logs if prefixes of wrappers were removed.

    Raises CheckpointRefused if two tensors then have the same name.
    """
    unwrapped = {name: _WRAPPERS.sub("", name) for name in tensors}
    if all(name.startswith(_PARALLEL) for name in unwrapped.values()):
        unwrapped = {
            name: _WRAPPERS.sub("", plain.removeprefix(_PARALLEL))
            for name, plain in unwrapped.items()
        }
    if wrapped := [name for name, plain in unwrapped.items() if name != plain]:
        print_line(
            f"names of weights contain prefixes of wrappers, as in {min(wrapped)[:200]}; read as "
            f"{unwrapped[min(wrapped)][:200]}"
        )
    found: dict[str, Stored] = {}
    for name, plain in unwrapped.items():
        known = _OLD.sub(lambda match: _NEW[match[0]], plain)
        if known in found:
            raise CheckpointRefused(
                f"{tensors[name].file.name} holds {name[:200]} and {found[known].name[:200]}, "
                f"which are both {known[:200]}; export the checkpoint as it was saved after "
                "training"
            )
        found[known] = tensors[name]
    return found
