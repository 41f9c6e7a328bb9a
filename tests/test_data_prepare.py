"""From settings to token files: what workloads get, from the cache or made at once by several."""

from __future__ import annotations

import bz2
import json
import math
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

from efficientllm.data import prepare as prepare_module
from efficientllm.data import snapshot as snapshot_module
from efficientllm.data.corpora._contract import example_documents
from efficientllm.data.corpus import open_corpus
from efficientllm.data.prepare import judged_rows, outside_rows, prepare
from efficientllm.data.sanity import bz2_bits_per_byte, unigram_bits_per_byte
from efficientllm.errors import DataError
from efficientllm.records.choice import Choice
from efficientllm.records.settings import PretrainSettings


def corpus_file(tmp_path: Path, count: int = 400) -> Path:
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps({"text": d}) + "\n" for d in example_documents(count)), encoding="utf-8")
    return path


def settings_of(corpus: str | Path, **fields) -> PretrainSettings:
    plain = {"vocab_tokens": 300, "heldout_tokens": 640, "sequence_tokens": 32, **fields}
    return PretrainSettings(corpus=Choice(name=str(corpus)), **plain)


RUN = """
import sys
from pathlib import Path
import msgspec
from efficientllm.data.prepare import prepare
from efficientllm.records.choice import Choice
from efficientllm.records.settings import PretrainSettings
settings = PretrainSettings(corpus=Choice(name=sys.argv[1]), vocab_tokens=300, heldout_tokens=640, sequence_tokens=32)
if len(sys.argv) > 3:
    from efficientllm.data import bpe, packing, snapshot
    bpe.train_bpe = packing._write = snapshot._write_split = None
prepared = prepare(settings, Path(sys.argv[2]), 1000)
assert "torch" not in sys.modules
print(msgspec.json.encode([prepared.facts, prepared.sanity, prepared.train.tokens[-5:].tolist()], order="sorted").decode())
"""


def said_by_processes(corpus: Path, cache: Path, count: int, *more: str) -> set[str]:
    command = [sys.executable, "-c", RUN, str(corpus), str(cache), *more]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(count)]
    said = {process.communicate()[0] for process in processes}
    assert all(process.returncode == 0 for process in processes)
    return said


def test_processes_at_once_and_later_ones_get_the_same_and_later_ones_make_nothing(tmp_path):
    corpus = corpus_file(tmp_path)
    at_once = said_by_processes(corpus, tmp_path / "cache", 3)
    assert len(at_once) == 1
    assert said_by_processes(corpus, tmp_path / "cache", 1, "make nothing") == at_once
    assert not list((tmp_path / "cache").rglob("*.partial"))


def test_facts_and_sanity_are_of_the_same_text(tmp_path):
    prepared = prepare(settings_of(corpus_file(tmp_path)), tmp_path / "cache", 10_000)
    facts = prepared.facts
    assert facts.corpus == "jsonl" and facts.tokenizer_sha256 == prepared.tokenizer.sha256
    assert (facts.train_tokens, facts.heldout_tokens) == (prepared.train.num_tokens, prepared.heldout.num_tokens)
    assert facts.heldout_bytes == prepared.heldout.text_bytes
    rows, scored_bytes = prepared.heldout.heldout_rows(32, 640)
    text = prepared.tokenizer.decode_bytes(rows[:, 1:].ravel().tolist())
    assert len(text) == scored_bytes
    assert prepared.sanity["bz2"] == 8 * len(bz2.compress(text)) / scored_bytes
    train = np.array(prepared.train.tokens)
    nats = [
        -math.log(((train == t).sum() + 1) / (len(train) + prepared.tokenizer.vocab_tokens))
        for t in rows[:, 1:].ravel()
    ]
    assert prepared.sanity["unigram"] == pytest.approx(sum(nats) / math.log(2) / scored_bytes)


def test_sanity_lines_of_known_text_are_known():
    random = np.random.default_rng(0).integers(0, 256, 50_000, dtype=np.uint8).tobytes()
    assert bz2_bits_per_byte(random) == pytest.approx(8, rel=0.02)
    counts = np.array([2, 0])  # three of four and one of four, smoothed
    assert unigram_bits_per_byte(counts, np.array([[0, 1]]), 1) == pytest.approx(2 + math.log2(4 / 3))


def test_changed_text_is_read_again(tmp_path):
    settings, cache = settings_of(corpus_file(tmp_path)), tmp_path / "cache"
    before = prepare(settings, cache).facts
    corpus_file(tmp_path, 401)
    after = prepare(settings, cache).facts
    assert after.corpus_sha256 != before.corpus_sha256 and after.train_tokens != before.train_tokens


def test_any_one_damaged_file_of_the_cache_is_made_again(tmp_path):
    settings, cache = settings_of(corpus_file(tmp_path)), tmp_path / "cache"
    before = prepare(settings, cache)
    files = [p for p in cache.rglob("*") if p.is_file() and p.name != "tokenizer_config.json"]
    assert {p.suffix for p in files} == {".txt", ".ends", ".json", ".tokens", ".counts"}
    for file in files:
        good = file.read_bytes()
        file.unlink()  # the mapped one keeps its bytes
        file.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
        after = prepare(settings, cache)
        assert file.read_bytes() == good, file.name
        assert after.facts == before.facts and after.sanity == before.sanity


def test_vocabularies_share_the_text_and_have_tokens_of_their_own(tmp_path):
    corpus, cache = corpus_file(tmp_path), tmp_path / "cache"
    small, large = (prepare(settings_of(corpus, vocab_tokens=v), cache) for v in (257, 350))
    assert small.facts.corpus_sha256 == large.facts.corpus_sha256
    assert (small.tokenizer.vocab_tokens, large.tokenizer.vocab_tokens) == (257, 350)
    assert small.train.num_tokens > large.train.num_tokens
    assert len(list((cache / "texts").glob("*.txt"))) == 2


def test_the_tokenizer_of_another_corpus_can_be_used(tmp_path):
    corpus, cache = corpus_file(tmp_path), tmp_path / "cache"
    trained = prepare(settings_of(corpus), cache)
    taken = prepare(settings_of(corpus, tokenizer=str(trained.tokenizer.path.parent)), tmp_path / "other")
    assert taken.facts.tokenizer_sha256 == trained.facts.tokenizer_sha256
    assert np.array_equal(taken.train.tokens, trained.train.tokens)


def test_of_a_large_corpus_as_much_is_read_as_the_budget_needs_and_the_tokenizer_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(snapshot_module, "POOL_BYTES", 8192)
    monkeypatch.setattr(prepare_module, "POOL_BYTES", 8192)
    monkeypatch.setattr(prepare_module, "_FIRST_BYTES_PER_TOKEN", 1)
    settings, cache = settings_of(corpus_file(tmp_path, 2000)), tmp_path / "cache"
    small, large = prepare(settings, cache, 100), prepare(settings, cache, 40_000)
    assert 8192 <= small.train.text_bytes < 8700 and large.train.num_tokens >= 40_000
    assert small.tokenizer.sha256 == large.tokenizer.sha256
    assert small.facts.details["train_read"].startswith("the first")
    assert prepare(settings, cache, 150_000).facts.details["train_read"] == "whole"


def test_too_little_text_is_refused_with_what_there_is(tmp_path):
    corpus, cache = corpus_file(tmp_path), tmp_path / "cache"
    tokens = prepare(settings_of(corpus), cache, None).train.num_tokens
    assert prepare(settings_of(corpus), cache, 4 * tokens).train.num_tokens == tokens
    wrong = {
        f"Lower tokens to {4 * tokens}": ({}, 4 * tokens + 1),
        "Set heldout_tokens to that or less": ({"heldout_tokens": 10**6}, None),
        "less than one row of sequence_tokens": ({"sequence_tokens": tokens}, None),
        "vocab_tokens 256 is too small": ({"vocab_tokens": 256}, None),
    }
    for says, (fields, needed) in wrong.items():
        with pytest.raises(DataError, match=says) as error:
            prepare(settings_of(corpus, **fields), cache, needed)
        assert "\n" not in str(error.value)


def test_the_standard_library_is_enough_for_a_small_study(tmp_path):
    prepared = prepare(PretrainSettings(vocab_tokens=512, heldout_tokens=16_384), tmp_path, 1_000_000)
    assert prepared.facts.train_tokens > 1_000_000
    assert 1 < prepared.sanity["bz2"] < prepared.sanity["unigram"] < 5
    assert prepared.facts.details["python"] == ".".join(map(str, sys.version_info[:3]))
    assert msgspec.json.decode(msgspec.json.encode(prepared.facts), type=type(prepared.facts)) == prepared.facts


def test_text_of_another_kind_comes_in_the_same_tokens_with_a_sanity_line_of_its_own(tmp_path):
    (tmp_path / "other").mkdir()
    other = corpus_file(tmp_path / "other", 300)
    other.write_text(other.read_text().replace("line", "verse"))
    settings = settings_of(corpus_file(tmp_path), outside=Choice(name=str(other)))
    prepared = prepare(settings, tmp_path / "cache")
    text = prepared.tokenizer.decode_bytes(prepared.outside.tokens.tolist()).decode()
    assert "verse" in text and "line" not in text
    rows, scored_bytes = outside_rows(prepared.outside, settings)
    assert rows.shape == (20, 33) and scored_bytes > 0
    assert prepared.sanity["bz2_outside"] > 0
    assert prepared.outside.packed.text_sha256 in prepared.facts.details["outside"]
    assert prepare(settings_of(tmp_path / "corpus.jsonl"), tmp_path / "cache").outside is None


def test_what_tunes_is_judged_by_other_rows_than_what_is_ranked(tmp_path):
    path = corpus_file(tmp_path, 2000)
    test, valid = settings_of(path), settings_of(path, judged_on="valid")
    prepared = prepare(test, tmp_path / "cache")
    seen = [{tuple(row) for row in judged_rows(prepared.heldout, each)[0].tolist()} for each in (test, valid)]
    assert len(seen[0]) == len(seen[1]) == 20
    assert prepare(valid, tmp_path / "cache").sanity["bz2"] != prepared.sanity["bz2"]


def test_the_language_reference_is_another_text_than_the_standard_library():
    reference, library = open_corpus(Choice(name="pydoc")), open_corpus(Choice(name="stdlib"))
    chapters = {text for split in ("train", "heldout") for text in reference.documents(split)}
    assert sum(map(len, reference.documents("heldout"))) > 100_000
    assert not chapters & {text for split in ("train", "heldout") for text in library.documents(split)}
