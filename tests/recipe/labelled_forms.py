"""Twenty labelled questions in every form that people keep them in.

Each writer puts them into a folder and returns what `data=` names. A question has one passage that
answers it and, where the form can say so, one that does not.
"""

import csv
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

THINGS = (
    *("wool", "rain", "wheat", "river", "bread", "stone", "copper", "candle", "harbour", "mirror"),
    *("thunder", "saddle", "barley", "lantern", "anvil", "orchard", "glacier", "compass", "violin"),
    "café",
)
COMMIT = "1c0d1856f3fb595b2dda98d4b61061fa6d782d51"


def question(n: int) -> str:
    return f"What is said about the {THINGS[n]}?"


def answer(n: int) -> str:
    return f'The {THINGS[n]}, they say, is number {n} of the list; "no more", no less.'


def other(n: int) -> str:
    return f"Nobody asks what stands on line {n} of the {THINGS[n - 1]}."


N = range(len(THINGS))


def lines(file: Path, rows: list[Any]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return file


def table(file: Path, columns: dict[str, list[Any]]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.table(columns), file, row_group_size=7)
    return file


def triples() -> list[tuple[str, str, str]]:
    return [(question(n), answer(n), other(n)) for n in N]


def beir(folder: Path) -> str:
    """Judged for training, development and test; a judgement of 0 is a negative."""
    documents = [{"_id": f"d{n}", "title": "", "text": answer(n)} for n in N]
    documents += [{"_id": f"x{n}", "title": "", "text": other(n)} for n in N]
    lines(folder / "corpus.jsonl", documents)
    lines(folder / "queries.jsonl", [{"_id": f"q{n}", "text": question(n)} for n in N])
    (folder / "qrels").mkdir()
    for name, part in (("train", N[:14]), ("dev", N[14:16]), ("test", N[16:])):
        rows = [f"q{n}\td{n}\t1\nq{n}\tx{n}\t0" for n in part]
        (folder / "qrels" / f"{name}.tsv").write_text(
            "\n".join(["query-id\tcorpus-id\tscore", *rows, ""])
        )
    return str(folder)


def beir_packed(folder: Path) -> str:
    """As the hub has BEIR: compressed, and a split of its own is not named."""
    beir(folder)
    for name in ("corpus.jsonl", "queries.jsonl"):
        (folder / f"{name}.gz").write_bytes(gzip.compress((folder / name).read_bytes()))
        (folder / name).unlink()
    for name in ("train", "dev"):
        (folder / "qrels" / f"{name}.tsv").unlink()
    rows = [f"q{n}\td{n}\t1\nq{n}\tx{n}\t0\n" for n in N]
    (folder / "qrels" / "test.tsv").write_text("".join(rows))
    return str(folder)


def anchors(folder: Path) -> str:
    """sentence-transformers' triplets."""
    names = ("anchor", "positive", "negative")
    return str(lines(folder / "a.jsonl", [dict(zip(names, t, strict=True)) for t in triples()]))


def numbered(folder: Path) -> str:
    """sentence-transformers' n-tuples, as parquet."""
    columns = {
        "query": [question(n) for n in N],
        "positive": [answer(n) for n in N],
        "negative_1": [other(n) for n in N],
        "negative_2": [other(n - 1) for n in N],
        "source": ["web" for _ in N],
    }
    return str(table(folder / "n.parquet", columns))


def labelled(folder: Path) -> str:
    """sentence-transformers' labelled pairs, in a table."""
    with (folder / "l.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("sentence1", "sentence2", "label"))
        for asked, right, wrong in triples():
            writer.writerows(((asked, right, "1.0"), (asked, wrong, "0")))
    return str(folder / "l.csv")


def listwise(folder: Path) -> str:
    """sentence-transformers' lists of documents with a label each."""
    rows = [{"query": q, "docs": [no, yes], "labels": [0, 1]} for q, yes, no in triples()]
    return str(lines(folder / "list.jsonl", rows))


def flag(folder: Path) -> str:
    """FlagEmbedding's, with a teacher's scores."""
    rows = [{"query": q, "pos": [yes], "neg": [no], "pos_scores": [1]} for q, yes, no in triples()]
    return str(lines(folder / "flag.jsonl", rows))


def msmarco(folder: Path) -> str:
    """MS MARCO's triples: no header, no quoting."""
    file = folder / "triples.train.small.tsv"
    file.write_text("".join("\t".join(one) + "\n" for one in triples()), "utf-8")
    return str(file)


def id_triples(folder: Path) -> str:
    """MS MARCO's triples of ids, the texts beside them."""
    collection = [f"{n}\t{answer(n)}\n{len(N) + n}\t{other(n)}\n" for n in N]
    for name, rows in (
        ("collection.tsv", collection),
        ("queries.tsv", [f"{n}\t{question(n)}\n" for n in N]),
        ("qidpidtriples.train.full.2.tsv", [f"{n}\t{n}\t{len(N) + n}\n" for n in N]),
    ):
        (folder / name).write_text("".join(rows), "utf-8")
    return str(folder / "qidpidtriples.train.full.2.tsv")


def selected(folder: Path) -> str:
    """MS MARCO's passages, as the hub has them."""
    passages = [{"is_selected": [0, 1], "passage_text": [other(n), answer(n)]} for n in N]
    columns = {"query": [question(n) for n in N], "query_id": list(N), "passages": passages}
    return str(table(folder / "ms.parquet", columns))


def dense(folder: Path) -> str:
    """Tevatron's and DPR's: passages with titles."""
    rows = [
        {
            "query_id": str(n),
            "query": question(n),
            "positive_passages": [{"docid": "1", "title": "", "text": answer(n)}],
            "negative_passages": [{"docid": "2", "title": None, "text": other(n)}],
        }
        for n in N
    ]
    return str(lines(folder / "dense.jsonl", rows))


def corpus(folder: Path, name: str, texts: dict[str, str]) -> None:
    table(folder / "train.parquet", {"id": list(texts), "text": list(texts.values())})
    metadata = {"class": "TextQADataset", "corpus_id": name}
    (folder / "merlin_metadata.json").write_text(json.dumps(metadata))


def automodel(folder: Path) -> str:
    """Automodel's file with its corpus in a list and elsewhere; ids bare or in objects."""
    texts = {f"d{n}": answer(n) for n in N} | {f"x{n}": other(n) for n in N}
    corpus(folder / "passages", "mine", texts)
    data = [
        {
            "question_id": f"q{n}",
            "question": question(n),
            "corpus_id": "mine",
            "pos_doc": [{"id": f"d{n}"}],
            "neg_doc": [f"x{n}"],
        }
        for n in N
    ]
    content = {"corpus": [{"path": "./passages/"}], "data": data}
    (folder / "mine.json").write_text(json.dumps(content))
    return str(folder / "mine.json")


def corpora(folder: Path) -> str:
    """Automodel's file with two corpora that use the same ids."""
    halves = {"first": N[:10], "second": N[10:]}
    data: list[dict[str, Any]] = []
    for name, half in halves.items():
        texts = {f"d{i}": answer(n) for i, n in enumerate(half)}
        texts |= {f"x{i}": other(n) for i, n in enumerate(half)}
        corpus(folder / name, f"corpus-{name}", texts)
        data += [
            {
                "question_id": f"{name}{i}",
                "question": question(n),
                "corpus_id": f"corpus-{name}",
                "pos_doc": [{"id": f"d{i}"}],
                "neg_doc": [{"id": f"x{i}"}],
            }
            for i, n in enumerate(half)
        ]
    content = {"corpus": [{"path": name} for name in halves], "data": data}
    (folder / "both.json").write_text(json.dumps(content))
    return str(folder / "both.json")


def inline(folder: Path) -> str:
    """Automodel's lines with the texts in them."""
    rows = [{"query": q, "pos_doc": yes, "neg_doc": [{"text": no}]} for q, yes, no in triples()]
    return str(lines(folder / "inline.jsonl", rows))


def split_files(folder: Path) -> str:
    """A folder of a data set with a file for each split."""
    names = ("question", "passage", "negative")
    for split, part in (("train", N[:14]), ("validation", N[14:16]), ("test", N[16:])):
        rows = [dict(zip(names, triples()[n], strict=True)) for n in part]
        columns = {name: [row[name] for row in rows] for name in names}
        table(folder / "data" / f"{split}-00000-of-00001.parquet", columns)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# Mine\n")
    return str(folder)


def on_the_hub(cache: Path) -> str:
    """A subset of a data set in the hub's cache, and the subset with its passages (Automodel's)."""
    root = cache / "datasets--org--mine" / "snapshots" / COMMIT
    texts = {f"d{n}": answer(n) for n in N} | {f"x{n}": other(n) for n in N}
    table(root / "FACTS" / "corpus.parquet", {"id": list(texts), "text": list(texts.values())})
    rows = {
        "question": [question(n) for n in N],
        "pos_doc": [[{"id": f"d{n}"}] for n in N],
        "neg_doc": [[{"id": f"x{n}"}] for n in N],
    }
    table(root / "FACTS" / "queries.parquet", rows)
    (root / "FACTS" / "dataset_metadata.json").write_text('{"corpus_id": "FACTS"}')
    (root / "loader.py").write_text("raise SystemExit('a script of a data set was run')")
    card = {"FACTS": "FACTS/queries.parquet", "FACTS_corpus": "FACTS/corpus*"}
    configs = "".join(f"- config_name: {k}\n  data_files: {v}\n" for k, v in card.items())
    (root / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    return f"hf://org/mine@{COMMIT}/FACTS"


def sdg_record(n: int) -> dict[str, Any]:
    """A record with no more fields than NVIDIA's own tests write."""
    return {
        "file_name": [f"doc_{n:03d}.txt"],
        "chunks": [
            {"chunk_id": 2 * n, "text": answer(n)},
            {"chunk_id": 2 * n + 1, "text": other(n)},
        ],
        "deduplicated_qa_pairs": [
            {
                "question": question(n),
                "answer": answer(n),
                "segment_ids": [2 * n],
                "hop_count": 2,
                "hop_contexts": [f"the {THINGS[n]}", "more of it"],
            }
        ],
        "qa_evaluations": {"evaluations": [{"overall": {"score": 8.5}}]},
    }


def sdg_lines(folder: Path) -> str:
    """A manifest that was written on another machine."""
    lines(folder / "mine.jsonl", [sdg_record(n) for n in N])
    manifest = {"schema_version": 1, "dataset_name": "mine", "output_path": "/gone/mine.jsonl"}
    (folder / "generation_result.json").write_text(json.dumps(manifest))
    return str(folder)


def sdg_batches(folder: Path) -> str:
    """The first version: batches, a name that is a text, scores in quotes."""
    for number, part in enumerate((N[:9], N[9:])):
        records = [sdg_record(n) for n in part]
        for one in records:
            one["file_name"] = one["file_name"][0]
            one["qa_evaluations"]["evaluations"][0]["overall"]["score"] = "8"
        content = records if number else {"data": records}
        (folder / f"generated_batch{number}.json").write_text(json.dumps(content))
    return str(folder)


def sdg_parquet(folder: Path) -> str:
    """As DataDesigner exports it."""
    records = [sdg_record(n) for n in N]
    return str(table(folder / "p.parquet", {key: [r[key] for r in records] for key in records[0]}))


def spreadsheet(folder: Path) -> str:
    """Questions and answers, as a spreadsheet of Windows saves them."""
    rows = [["Question", "Answer"], *([question(n), answer(n)] for n in N)]
    quoted = [";".join(f'"{cell.replace(chr(34), chr(34) * 2)}"' for cell in row) for row in rows]
    (folder / "faq.csv").write_bytes("\r\n".join(quoted).encode("utf-16"))
    return str(folder / "faq.csv")


# Writers of a folder, with what else the command line says.
FORMS: dict[str, tuple[Callable[[Path], str], list[str]]] = {
    "beir": (beir, []),
    "beir, packed": (beir_packed, []),
    "anchor, positive, negative": (anchors, []),
    "numbered negatives": (numbered, []),
    "labelled pairs": (labelled, []),
    "lists with labels": (listwise, []),
    "flagembedding": (flag, []),
    "ms marco triples": (msmarco, []),
    "ms marco ids": (id_triples, []),
    "ms marco passages": (selected, []),
    "tevatron": (dense, []),
    "automodel": (automodel, []),
    "automodel, two corpora": (corpora, []),
    "automodel, inline": (inline, []),
    "a file for each split": (split_files, []),
    "stage 0": (sdg_lines, []),
    "stage 0, batches": (sdg_batches, []),
    "stage 0, parquet": (sdg_parquet, []),
    "spreadsheet": (spreadsheet, []),
}
# Those that say what does not answer a question.
WITHOUT_NEGATIVES = {"stage 0", "stage 0, batches", "stage 0, parquet", "spreadsheet"}
