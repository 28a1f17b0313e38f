"""The checkpoint's own tokenizer, as the exporter reads and keeps it."""

import json
import shutil
from pathlib import Path

import pytest
import tokenizers

from exporter.errors import CheckpointRefused
from exporter.tokens import CheckpointTokenizer

TEMPLATE = "question:{query} \n \n passage:{passage}"


def llama(directory: Path) -> CheckpointTokenizer:
    return CheckpointTokenizer(directory, "llama_bidirec", TEMPLATE, 64)


def test_special_tokens_of_both_families(
    tiny_llama_checkpoint: Path, tiny_bert_checkpoint: Path
) -> None:
    special = llama(tiny_llama_checkpoint).special_tokens(10_000)
    assert (special.bos, special.eos, special.pad) == (0, None, 1)
    special = CheckpointTokenizer(tiny_bert_checkpoint, "bert", None, 64).special_tokens(10_000)
    assert (special.bos, special.eos, special.pad) == (2, 3, 0)


def test_the_template_is_filled_with_texts_that_look_like_it(tiny_llama_checkpoint: Path) -> None:
    tokens = llama(tiny_llama_checkpoint).encode("{passage}", "{query}")
    plain = tokenizers.Tokenizer.from_file(str(tiny_llama_checkpoint / "tokenizer.json"))
    assert plain.decode(tokens.token_ids) == "question:{passage} \n \n passage:{query}"
    assert tokens.type_ids is None


def test_a_tokenizer_json_is_made_where_there_is_none(
    tiny_bert_checkpoint: Path, tmp_path: Path
) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(tiny_bert_checkpoint, bare)
    vocabulary = json.loads((bare / "tokenizer.json").read_bytes())["model"]["vocab"]
    (bare / "tokenizer.json").unlink()
    words = sorted(vocabulary, key=vocabulary.get)
    (bare / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    tokenizer = CheckpointTokenizer(bare, "bert", None, 64)
    tokenizer.save(tmp_path / "kept")
    made = tokenizers.Tokenizer.from_file(str(tmp_path / "kept" / "tokenizer.json"))
    wanted = CheckpointTokenizer(tiny_bert_checkpoint, "bert", None, 64).encode("the sheep", "AI")
    assert made.encode("the sheep", "AI").ids == wanted.token_ids
    assert tokenizer.encode("the sheep", "AI") == wanted


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
