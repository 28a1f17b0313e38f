"""Ours without the server: the runtime's façade in a process of its own."""

from pathlib import Path

from benchmarks.protocol import Score, Setting
from runtime.opening import open_ranker
from runtime.requests import RankRequest


def load(setting: Setting) -> Score:
    """The artifact, warmed up as the server does."""
    ranker = open_ranker(Path(setting.graph))
    ranker.warm_up()
    return lambda query, passages: ranker.rank(
        RankRequest(query, passages, truncate="END")
    ).logits.tolist()
