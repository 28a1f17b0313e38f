"""The checkpoint's own tokenizer, as the exporter reads and keeps it."""

import itertools
import json
import shutil
from pathlib import Path

import pytest
import tokenizers
from tokenizers import normalizers

from exporter.checkpoint import read_checkpoint
from exporter.errors import CheckpointRefused
from exporter.pipeline import ExportArgs, export
from exporter.tokens import CheckpointTokenizer, load_tokenizer
from runtime.errors import InputTooLong
from runtime.requests import RankRequest
from runtime.text import PairEncoder

TEMPLATE = "question:{query} \n \n passage:{passage}"


def llama(directory: Path) -> CheckpointTokenizer:
    return CheckpointTokenizer(load_tokenizer(directory, "llama_bidirec"), directory, TEMPLATE, 64)


def bert(directory: Path) -> CheckpointTokenizer:
    return CheckpointTokenizer(load_tokenizer(directory, "bert"), directory, None, 64)


def test_special_tokens_of_both_families(
    tiny_llama_checkpoint: Path, tiny_bert_checkpoint: Path
) -> None:
    special = llama(tiny_llama_checkpoint).special_tokens(10_000)
    assert (special.bos, special.eos, special.pad) == (0, None, 1)
    special = bert(tiny_bert_checkpoint).special_tokens(10_000)
    assert (special.bos, special.eos, special.pad) == (2, 3, 0)


def test_the_template_is_filled_with_texts_that_look_like_it(tiny_llama_checkpoint: Path) -> None:
    tokens, _ = llama(tiny_llama_checkpoint).encode("{passage}", "{query}")
    plain = tokenizers.Tokenizer.from_file(str(tiny_llama_checkpoint / "tokenizer.json"))
    assert plain.decode(tokens.token_ids) == "question:{passage} \n \n passage:{query}"
    assert tokens.type_ids is None


TAILS = ("", "\nRelevant:", "ing of sheep", " \n", "<|end_of_text|>\n", ".\n\n<|im_end|>")


@pytest.mark.parametrize("tail", TAILS)
def test_of_a_pair_that_is_too_long_the_runtime_keeps_the_same_tokens(
    tail: str, tiny_llama_checkpoint: Path
) -> None:
    """Whatever the limit leaves: some of the passage, none of it, or not even all of the query; and
    always what is behind the passage."""
    template = TEMPLATE + tail
    loaded = load_tokenizer(tiny_llama_checkpoint, "llama_bidirec")
    plain = tokenizers.Tokenizer.from_file(str(tiny_llama_checkpoint / "tokenizer.json"))
    pair = "What is machine learning?", "Machine learn is a subset of AI, said the farmer.\n Sheep"
    whole, cut = CheckpointTokenizer(loaded, tiny_llama_checkpoint, template, 1000).encode(*pair)
    assert not cut
    behind = bool(tail)
    head = len(plain.encode(TEMPLATE.replace("{query}", pair[0]).replace("{passage}", pair[1])).ids)
    # The tail, which may have another first token behind a passage, and BOS.
    shortest = len(whole.token_ids) - head + 1
    for limit in range(1, len(whole.token_ids)):
        ours = CheckpointTokenizer(loaded, tiny_llama_checkpoint, template, limit)
        request = RankRequest(pair[0], [pair[1]], truncate="END")
        encoder = PairEncoder(plain, template, limit)
        if behind and limit < shortest:
            with pytest.raises(CheckpointRefused, match="must not be cut"):
                ours.encode(*pair)
            with pytest.raises(InputTooLong):
                encoder.encode(request)
            continue
        found, cut = ours.encode(*pair)
        served = encoder.encode(request)
        assert found.token_ids == served.rows[0].token_ids.tolist()
        assert (cut, len(found.token_ids)) == (True, limit)
        if behind:
            shown = plain.decode(found.token_ids, skip_special_tokens=False)
            assert shown.endswith(tail.lstrip())


def test_a_tokenizer_json_is_made_where_there_is_none(
    tiny_bert_checkpoint: Path, tmp_path: Path
) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(tiny_bert_checkpoint, bare)
    vocabulary = json.loads((bare / "tokenizer.json").read_bytes())["model"]["vocab"]
    (bare / "tokenizer.json").unlink()
    words = sorted(vocabulary, key=vocabulary.get)
    (bare / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    tokenizer = bert(bare)
    tokenizer.save(tmp_path / "kept")
    made = tokenizers.Tokenizer.from_file(str(tmp_path / "kept" / "tokenizer.json"))
    wanted, _ = bert(tiny_bert_checkpoint).encode("the sheep", "AI")
    assert made.encode("the sheep", "AI").ids == wanted.token_ids
    assert tokenizer.encode("the sheep", "AI") == (wanted, False)


def test_no_tokenizer_at_all_is_refused(tiny_llama_checkpoint: Path, tmp_path: Path) -> None:
    shutil.copyfile(tiny_llama_checkpoint / "config.json", tmp_path / "config.json")
    with pytest.raises(CheckpointRefused, match=r"tokenizer\.json"):
        llama(tmp_path)


def test_a_tokenizers_own_code_never_runs(tiny_llama_checkpoint: Path, tmp_path: Path) -> None:
    hostile = tmp_path / "hostile"
    shutil.copytree(tiny_llama_checkpoint, hostile)
    settings = {"auto_map": {"AutoTokenizer": ["code.Hostile", None]}}
    (hostile / "tokenizer_config.json").write_text(json.dumps(settings))
    (hostile / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(CheckpointRefused):
        llama(hostile)
    assert not (tmp_path / "ran").exists()


def test_a_pad_token_past_the_embeddings_is_not_used(tiny_llama_checkpoint: Path) -> None:
    assert llama(tiny_llama_checkpoint).special_tokens(vocabulary=1).pad == 0


def bomb(directory: Path) -> None:
    """Each replacement makes ten of the character that the one before it left."""
    path = directory / "tokenizer.json"
    tokenizer = tokenizers.Tokenizer.from_file(str(path))
    nested = [normalizers.Replace(one, after * 10) for one, after in itertools.pairwise("abcdefgh")]
    tokenizer.normalizer = normalizers.Sequence(nested)
    tokenizer.save(str(path))


def test_a_tokenizer_that_multiplies_texts_is_refused_before_anything_is_built(
    tiny_llama_checkpoint: Path, tmp_path: Path
) -> None:
    directory = tmp_path / "llama"
    shutil.copytree(tiny_llama_checkpoint, directory)
    bomb(directory)
    for look in (lambda: read_checkpoint(str(directory)), lambda: llama(directory)):
        with pytest.raises(CheckpointRefused, match=r"makes up to 4e\+07 characters of one"):
            look()
    (directory / "tokenizer.json").write_bytes(b"{")
    with pytest.raises(CheckpointRefused, match=r"tokenizer\.json in .* cannot be used: "):
        read_checkpoint(str(directory))


@pytest.mark.parametrize("name", ["tokenizer.json", "vocab.txt", "added_tokens.json", "spm.model"])
def test_tokenizer_files_of_any_size_are_refused_unread(
    tiny_bert_checkpoint: Path, tmp_path: Path, name: str
) -> None:
    directory = tmp_path / "bert"
    shutil.copytree(tiny_bert_checkpoint, directory)
    with (directory / name).open("ab") as file:
        file.truncate(1 << 40)
    with pytest.raises(CheckpointRefused, match=f"{name} has {1 << 40} bytes"):
        read_checkpoint(str(directory))


def test_tokens_without_a_row_in_the_embeddings_are_named(
    tiny_bert_checkpoint: Path, tmp_path: Path
) -> None:
    directory = tmp_path / "bert"
    shutil.copytree(tiny_bert_checkpoint, directory)
    path = directory / "tokenizer.json"
    file = json.loads(path.read_bytes())
    words = len(file["model"]["vocab"])
    for number in (words, 1 << 31):
        changed = file["model"] | {"vocab": file["model"]["vocab"] | {"unheard": number}}
        path.write_text(json.dumps(file | {"model": changed}))
        message = f"the token 'unheard' as number {number}, .* vocab_size = {words}"
        with pytest.raises(CheckpointRefused, match=message):
            read_checkpoint(str(directory))
    # Where transformers makes the tokenizer, of a file with one word too many.
    path.unlink()
    vocabulary = sorted(file["model"]["vocab"], key=file["model"]["vocab"].get)
    (directory / "vocab.txt").write_text("\n".join([*vocabulary, "unheard"]), encoding="utf-8")
    message = f"the token 'unheard' as number {words}"
    with pytest.raises(CheckpointRefused, match=message):
        export(str(directory), tmp_path / "out", ExportArgs())
