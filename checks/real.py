"""`make check-real CHECKPOINT=DIR`: checks that need real weights.

Compares token counts with those of the NIM of that kind, exports with parity, and measures nDCG@10
where a BEIR folder is available. Takes rerankers and embedders.
"""

import argparse
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from checks import figures
from checks.beir import rerank
from checks.exporting import exported
from exporter.pipeline import ExportArgs
from recipe.evaluation.collection import read_collection
from runtime.embedder import Embedder
from runtime.manifest import TOKENIZER_FILE
from runtime.model import Model
from runtime.opening import open_model
from runtime.ranker import Ranker
from runtime.requests import EmbedRequest, RankRequest
from runtime.telemetry import disable_telemetry
from runtime.text import load_tokenizer

WORK = Path("build/check-real")
BEIR = Path("../shared/data/cranfield")
# 20 queries × 50 passages take half an hour with the 1B model on two cores; a GPU can do all.
QUERIES = 20


@dataclass(frozen=True)
class Expectations:
    """Facts about the reranking NIM's tokens.

    `separator_id` stands for the space and the newlines between query and passage;
    `token_counts` maps a number of synthetic passages to the tokens that NIM 1.10.0 reports.
    """

    separator_id: int
    token_counts: dict[int, int]


@dataclass(frozen=True)
class VectorExpectations:
    """Facts about the embedding NIM: the size of a vector, and the tokens that NIM 1.13.0 reports
    for a number of synthetic passages."""

    dimensions: int
    token_counts: dict[int, int]


NIM = Expectations(separator_id=33006, token_counts={2: 58, 16: 464})
EMBED_NIM = VectorExpectations(dimensions=2048, token_counts={1: 17, 16: 272})
# Embedders of other families have no reference values.
_EMBED_PROFILE = "llama-nemotron-embed-1b-v2"
_QUERY = "Thủ đô của Việt Nam là thành phố nào?"
_PASSAGE = "Synthetic candidate {i}: deterministic reranking performance fixture."
# Of the card of nvidia/llama-nemotron-rerank-vl-1b-v2; its images are on the web and not compared.
VISION_LOGITS = (-0.73828125, -3.859375, -7.75)
_BF16_LOGIT = 0.1
_VISION_QUERY = "How is AI improving the intelligence and capabilities of robots?"
_VISION_PASSAGES = (
    "AI enables robots to perceive, plan, and act autonomously.",
    "AI is transforming autonomous vehicles by enabling safer, smarter, and more reliable "
    "decision-making on the road.",
    "A biological foundation model designed to analyze and generate DNA, RNA, and protein "
    "sequences.",
)
_TEXT = "Synthetic passage {i}: service availability is measured without company data."


@dataclass(frozen=True)
class Finding:
    """One comparison."""

    what: str
    found: object
    wanted: object

    @property
    def passed(self) -> bool:
        """Whether the found value is the wanted one."""
        return self.found == self.wanted

    @property
    def verdict(self) -> str:
        """The same in words."""
        return "ok" if self.passed else f"FAILED, wanted {self.wanted}"


def check_tokens(ranker: Ranker, artifact: Path, expected: Expectations) -> list[Finding]:
    """The separator's token and the token counts, found and wanted."""
    findings = [
        Finding("token of the separator", _separator(ranker, artifact), expected.separator_id)
    ]
    for count, wanted in expected.token_counts.items():
        passages = [_PASSAGE.format(i=i) for i in range(count)]
        found = sum(map(len, ranker.encoder.encode(RankRequest(_QUERY, passages)).rows))
        findings.append(Finding(f"tokens of {count} synthetic passages", found, wanted))
    return findings


def check_texts(embedder: Embedder, expected: VectorExpectations) -> list[Finding]:
    """The size of a vector and the token counts of passages, found and wanted."""
    findings = [Finding("components of a vector", embedder.info.dimensions, expected.dimensions)]
    for count, wanted in expected.token_counts.items():
        texts = [_TEXT.format(i=i) for i in range(count)]
        found = sum(map(len, embedder.encoder.encode(EmbedRequest(texts, "passage")).rows))
        findings.append(Finding(f"tokens of {count} synthetic passages", found, wanted))
    return findings


def check_vision_texts(ranker: Ranker, logits: Sequence[float] = VISION_LOGITS) -> list[Finding]:
    """The logits of texts alone that stand on the vision reranker's card."""
    found = ranker.rank(RankRequest(_VISION_QUERY, _VISION_PASSAGES)).logits.tolist()
    return [
        Finding(
            f"logit of the card's text {number}",
            round(ours, 3),
            # Its own are computed in bf16, in which logits move by as much.
            round(ours, 3) if abs(ours - card) <= _BF16_LOGIT else card,
        )
        for number, (ours, card) in enumerate(zip(found, logits, strict=True))
    ]


def _separator(ranker: Ranker, artifact: Path) -> int | None:
    """The one token between query and passage: after `question:a`, before ` passage:b`."""
    tokenizer = load_tokenizer(artifact / TOKENIZER_FILE)
    ids = ranker.encoder.encode(RankRequest("a", ["b"])).rows[0].token_ids.tolist()
    for index, token in enumerate(ids):
        before, after = tokenizer.decode(ids[:index]), tokenizer.decode(ids[index + 1 :])
        if before == "question:a" and after.strip() == "passage:b":
            return int(token)
    return None


def main(
    arguments: list[str] | None = None,
    expected: Expectations = NIM,
    vectors_expected: VectorExpectations = EMBED_NIM,
) -> int:
    """Run all checks; 1 when one of them fails."""
    disable_telemetry()
    args = _parser().parse_args(arguments)
    exported(
        "check-real", args.checkpoint, WORK, ExportArgs(args.profile, args.target, args.max_tokens)
    )
    with closing(open_model(WORK)) as model:
        findings = _findings(model, expected, vectors_expected)
        rows = {one.what: f"{one.found} {one.verdict}" for one in findings} or {
            "tokens": f"not compared: no reference values for profile {model.info.profile}"
        }
        print(figures.lines(rows | {"nDCG@10": _quality(model, args.beir, args.queries)}))
    return 0 if all(one.passed for one in findings) else 1


def _findings(
    model: Model, expected: Expectations, vectors_expected: VectorExpectations
) -> list[Finding]:
    if isinstance(model, Ranker) and model.info.images:
        return check_vision_texts(model)
    if isinstance(model, Ranker):
        return check_tokens(model, WORK, expected)
    if isinstance(model, Embedder) and model.info.profile == _EMBED_PROFILE:
        return check_texts(model, vectors_expected)
    return []


def _quality(served: Model, folder: Path, queries: int) -> str:
    if not folder.is_dir():
        return f"not measured: no folder {folder}; name one with --beir"
    collection = read_collection(folder)
    plain, model = rerank(served, collection, queries)
    asked = min(queries, len(collection.queries))
    return f"{model:.4f}, BM25 {plain:.4f} ({asked} queries of {folder})"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="check-real", description=__doc__)
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a directory or a hub id")
    parser.add_argument("--profile", help="model profile, if the architecture does not decide it")
    parser.add_argument("--target", default="cpu-fp32")
    parser.add_argument(
        "--max-tokens", type=int, help="less than the profile's, on a machine with less memory"
    )
    parser.add_argument("--beir", type=Path, default=BEIR, help="a folder in BEIR's layout")
    parser.add_argument("--queries", type=int, default=QUERIES, help="how many of its queries")
    return parser


if __name__ == "__main__":
    sys.exit(main())
