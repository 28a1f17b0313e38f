"""What the exporter reads in a folder, up to the graph: its tokens and its model's numbers."""

import tempfile
from pathlib import Path

import numpy as np

from exporter.answers import Reference, Text
from exporter.checkpoint import load_model, read_checkpoint
from exporter.draft import draft
from exporter.model_profile import choose_profile
from exporter.parity import new_report
from exporter.parity_texts import Group
from exporter.pipeline import ExportArgs
from exporter.proof import make_proof
from exporter.stand_in import own_reading
from exporter.witness.base import RankWitness, VectorWitness
from runtime.profile import load_target_profile
from tests.zoo.answers import Answers, row
from tests.zoo.texts import PAIRS, PASSAGES, QUERY, TEXTS

_GROUP = (Group("zoo", QUERY, PASSAGES),)


def read(directory: Path, args: ExportArgs) -> Answers:
    """The answers of the exporter's own model to what its tokenizers agree upon.

    Raises ExportError and ServingError as an export does.
    """
    target = load_target_profile("cpu-fp32")
    checkpoint = read_checkpoint(str(directory), args.adapter, pooling=args.pooling)
    profile = choose_profile(args.profile, checkpoint.architecture, checkpoint.kind)
    wishes = ExportArgs(template=args.template, prefixes=args.prefixes, max_tokens=args.max_tokens)
    found = draft(checkpoint, profile, target, wishes)
    own = own_reading(
        load_model(found.checkpoint), found.tokenizer, found.manifest, "it reads alone"
    )
    texts = None
    if isinstance(own, RankWitness):
        tokens, numbers = zip(*(own.score(*pair) for pair in PAIRS), strict=True)
    else:
        assert isinstance(own, VectorWitness)
        tokens, numbers = zip(*(own.embed(*text) for text in TEXTS), strict=True)
        texts = [[Text(str(number), *text) for number, text in enumerate(TEXTS)]]
    outputs = np.stack(numbers)
    reference = Reference(own.name, _GROUP, [list(tokens)], [outputs], texts)
    report = new_report("onnxruntime-cpu", target, own.name, random_weights=False)
    with tempfile.TemporaryDirectory() as saved:
        found.tokenizer.save(Path(saved) / "tokenizer")
        # Raises ParityFailed where the tokenizer that would serve reads otherwise.
        make_proof(found.manifest, reference).check_tokens(report, Path(saved))
    typed = "token_type_ids" in found.manifest.inputs
    rows = [row(one.token_ids, one.type_ids if typed else None) for one in tokens]
    return Answers(rows, outputs[:, 0] if texts is None else outputs)
