"""Stage 0, sdg: questions, answers and scores for the texts of a corpus."""

import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import httpx
import msgspec

from recipe.config import SdgConfig
from recipe.durable import write_atomic, write_json
from recipe.errors import BadConfig, BadInput
from recipe.fixed import WITHOUT_EFFECT
from recipe.generation import extractive, llm
from recipe.generation.corpus import PYTHON_DOCS, check_corpus, identify, read_corpus
from recipe.generation.endpoint import Endpoint
from recipe.generation.record import RESULT_FILE, RESULT_SCHEMA, Record, Result
from recipe.hub import pinned_dataset
from recipe.progress import Log
from recipe.stage import Input, Stage

# Usable answers of the endpoint: chat and embeddings. They cost money, so --force uses them again
# (each is stored under the hash of its request). Remove the files to get new ones.
_ANSWERS_FILE, _VECTORS_FILE = "answers.jsonl", "vectors.jsonl"
_PREVIEWED = 2


def _inputs(settings: SdgConfig) -> list[Input]:
    given = settings.corpus_dir
    elsewhere = given.startswith("hf://") or given == PYTHON_DOCS or not given.strip()
    return [] if elsewhere else [Input(Path(given), "corpus", None)]


def _outputs(settings: SdgConfig) -> list[Path]:
    return [settings.home / name for name in (RESULT_FILE, _records_name(settings))]


def _records_name(settings: SdgConfig) -> str:
    return f"{_dataset(settings)}.jsonl"


def _dataset(settings: SdgConfig) -> str:
    return settings.dataset_name or settings.corpus_id


def _check_values(settings: SdgConfig) -> None:
    for name, counts in (
        ("query_counts", settings.query_counts),
        ("reasoning_counts", settings.reasoning_counts),
    ):
        if not any(msgspec.structs.astuple(counts)):
            raise BadConfig(f"found only 0 in {name}, wanted a share above 0 for at least one kind")
    if settings.min_hops > settings.max_hops:
        raise BadConfig(
            f"found min_hops = {settings.min_hops} above max_hops = {settings.max_hops}"
        )
    name = _dataset(settings)
    if "/" in name or "\0" in name or name.startswith(".") or not name.strip():
        key = "dataset_name" if settings.dataset_name else "corpus_id"
        raise BadConfig(f"found {key} = {name!r}, wanted a plain file name")
    for name in ("endpoint", "embed_endpoint"):
        _check_url(name, getattr(settings, name))


def _check_key(settings: SdgConfig) -> None:
    if settings.generator == "llm" and not os.environ.get(settings.api_key_env):
        raise BadInput(
            f"found no key in the environment variable {settings.api_key_env}, which "
            f"{settings.endpoint} needs; set it, or work offline with generator=extractive"
        )


def _check_url(name: str, url: str | None) -> None:
    try:
        parsed = httpx.URL(url or "http://x")
    except httpx.InvalidURL as error:
        raise BadConfig(f"found {name} = {url!r}, wanted a base URL: {error}") from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise BadConfig(
            f"found {name} = {url!r}, wanted a base URL such as https://integrate.api.nvidia.com/v1"
        )


def _plan(settings: SdgConfig) -> list[str]:
    if settings.generator == "extractive":
        how = "use headings and sentences as queries, without a network"
    else:
        how = (
            f"ask {settings.endpoint} for {settings.num_pairs} pairs a document, "
            f"{settings.max_parallel_requests_for_gen} requests at a time"
        )
    only = f"only {_PREVIEWED} documents of " if settings.preview else ""
    return [f"read {only}{settings.corpus_dir}", how, f"write {settings.home}"]


def _run(settings: SdgConfig, log: Log) -> None:
    documents = read_corpus(settings, log)
    if settings.preview:
        documents = documents[:_PREVIEWED]
    log(f"{len(documents)} documents")
    if settings.generator == "extractive":
        records = extractive.generate(documents, settings)
    else:
        records = _from_endpoint(settings, llm.sources(documents, settings), log)
    if not any(record.deduplicated_qa_pairs for record in records):
        raise BadInput(
            f"found no question in {len(records)} document(s) of {settings.corpus_dir}; wanted "
            "texts of several sentences"
        )
    _write(settings, records)
    pairs = sum(len(record.deduplicated_qa_pairs) for record in records)
    log(f"{pairs} pairs from {sum(len(record.chunks) for record in records)} chunks")


def _from_endpoint(settings: SdgConfig, found: Sequence[llm.Source], log: Log) -> list[Record]:
    key = os.environ[settings.api_key_env]
    home = settings.home

    def endpoint(url: str, journal: str) -> Endpoint:
        return Endpoint(
            url,
            key,
            home / journal,
            timeout_s=settings.request_timeout_s,
            max_attempts=settings.max_attempts,
            connections=settings.max_parallel_requests_for_gen,
            log=log,
        )

    with ExitStack() as stack:
        chat = stack.enter_context(endpoint(settings.endpoint, _ANSWERS_FILE))
        embed = stack.enter_context(
            endpoint(settings.embed_endpoint or settings.endpoint, _VECTORS_FILE)
        )
        records = llm.generate(found, settings, chat, embed, log)
    used = chat.usage
    log(
        f"{used.requests} answers of {used.prompt_tokens} + {used.completion_tokens} tokens, "
        f"{embed.usage.requests} of embeddings"
    )
    return records


def _write(settings: SdgConfig, records: Sequence[Record]) -> None:
    home, name = settings.home, _records_name(settings)
    write_atomic(home / name, msgspec.json.Encoder().encode_lines(records))
    dataset = _dataset(settings)
    result = Result(schema_version=RESULT_SCHEMA, dataset_name=dataset, output_path=name)
    write_json(home / RESULT_FILE, result)


STAGE = Stage(
    name="sdg",
    about="questions, answers and scores from a corpus",
    settings=SdgConfig,
    inputs=_inputs,
    outputs=_outputs,
    check_values=_check_values,
    check=check_corpus,
    check_machine=_check_key,
    plan=_plan,
    run=_run,
    sources=lambda settings: identify(settings.corpus_dir),
    pin=lambda settings, commits: msgspec.structs.replace(
        settings, corpus_dir=pinned_dataset(settings.corpus_dir, commits)
    ),
    free=frozenset(
        {"max_parallel_requests_for_gen", "request_timeout_s", "max_attempts"}
        | set(WITHOUT_EFFECT[SdgConfig])
    ),
)
