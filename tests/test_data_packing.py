"""Token files: nothing is lost, damage is seen, processes do not disturb each other."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from efficientllm.data import packing
from efficientllm.data.bpe import trained_tokenizer
from efficientllm.data.corpora._contract import example_documents
from efficientllm.data.corpus import find_reader
from efficientllm.data.packing import pack
from efficientllm.data.snapshot import POOL_BYTES, Snapshot, documents, take_snapshot
from efficientllm.errors import DataError
from efficientllm.records.choice import Choice

DOCUMENTS = [*example_documents(200), "<|endoftext|> in the text\n", "no line end 🙂", "x " * 40_000]


def snapshot_of(tmp_path: Path, texts: list[str], limit_bytes: int = POOL_BYTES) -> Snapshot:
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts), encoding="utf-8")
    return take_snapshot(find_reader(Choice(name=str(path))), tmp_path / "cache", limit_bytes, limit_bytes)


@pytest.fixture
def packed(tmp_path):
    snapshot = snapshot_of(tmp_path, DOCUMENTS)
    tokenizer = trained_tokenizer(snapshot.train, 400, tmp_path / "cache")
    return tokenizer, snapshot, pack(snapshot.train, tokenizer, tmp_path / "cache")


def test_a_snapshot_holds_every_document_once_and_knows_its_text(tmp_path):
    snapshot = snapshot_of(tmp_path, DOCUMENTS)
    train, heldout = (list(documents(split, tmp_path / "cache")) for split in (snapshot.train, snapshot.heldout))
    assert sorted(train + heldout) == sorted(DOCUMENTS)
    assert snapshot.train.text_bytes == sum(len(d.encode()) for d in train)
    (tmp_path / "other").mkdir()
    assert snapshot_of(tmp_path / "other", DOCUMENTS).sha256() == snapshot.sha256()
    assert snapshot_of(tmp_path, [*DOCUMENTS, "one more"]).sha256() != snapshot.sha256()


def test_a_training_document_that_equals_a_held_out_one_is_left_out(tmp_path):
    for name, texts in {"train": ["same", "own", "same"], "valid": ["same", "other"]}.items():
        (tmp_path / name).mkdir()
        for index, text in enumerate(texts):
            (tmp_path / name / f"{index}.txt").write_text(text, encoding="utf-8")
    reader = find_reader(Choice(name="text", options={"path": str(tmp_path)}))
    snapshot = take_snapshot(reader, tmp_path / "cache", POOL_BYTES, POOL_BYTES)
    assert list(documents(snapshot.train, tmp_path / "cache")) == ["own"] and snapshot.train.num_repeated == 2


def test_what_is_no_text_is_refused_with_its_document(tmp_path):
    for yielded, says in (
        ("'a\\ud800'", "train document 2 has half a surrogate pair at character 1"),
        ("b'a'", "bytes, not text"),
    ):
        reader = tmp_path / "reader.py"
        reader.write_text(
            "class Mine:\n"
            "    details = {}\n"
            f"    def documents(self, split): return iter(['a', {yielded} if split == 'train' else 'b'])\n"
            "    def fingerprint(self): return ''\n"
            "from efficientllm.data.corpora._contract import CorpusEntry\n"
            "ENTRY = CorpusEntry(title='', open=Mine)\n",
            encoding="utf-8",
        )
        with pytest.raises(DataError, match=says):
            take_snapshot(find_reader(Choice(name=str(reader))), tmp_path / "cache", 1000, 1000)


def test_reading_stops_at_the_limit_and_says_so(tmp_path):
    snapshot = snapshot_of(tmp_path, example_documents(200), limit_bytes=2000)
    assert not snapshot.train.complete and 2000 <= snapshot.train.text_bytes < 2400


def test_packed_tokens_decode_to_the_documents_one_end_of_text_after_each(tmp_path, packed):
    tokenizer, snapshot, file = packed
    ends = np.flatnonzero(file.tokens == tokenizer.end_of_text)
    parts = [tokenizer.decode(part.tolist()) for part in np.split(file.tokens, ends + 1)]
    assert [p for p in parts if p] == list(documents(snapshot.train, tmp_path / "cache"))
    assert file.tokens[-1] == tokenizer.end_of_text and len(ends) == snapshot.train.num_documents


def test_the_bytes_of_all_tokens_are_the_bytes_of_the_text(packed):
    _, snapshot, file = packed
    assert file.bytes_of(file.tokens) == file.token_bytes == file.text_bytes == snapshot.train.text_bytes
    assert np.array_equal(np.bincount(file.tokens, minlength=400), file.counts)
    assert file.tokens.dtype == np.uint16 and len(file.tokens) == file.num_tokens == file.counts.sum()


def test_more_than_65536_ids_are_packed_as_uint32(tmp_path, packed):
    tokenizer, snapshot, small = packed
    table = json.loads(tokenizer.path.read_text(encoding="utf-8"))
    table["model"]["vocab"] |= {f"{i:05x}": i for i in range(400, 65_537)}
    (tmp_path / "tokenizer.json").write_text(json.dumps(table), encoding="utf-8")
    large = pack(snapshot.train, packing.Tokenizer(tmp_path / "tokenizer.json"), tmp_path / "cache")
    assert large.tokens.dtype == np.uint32 and small.tokens.dtype == np.uint16
    assert np.array_equal(large.tokens, small.tokens)


def test_heldout_rows_share_no_target_and_know_their_bytes(packed):
    tokenizer, _, file = packed
    rows, scored_bytes = file.heldout_rows(sequence_tokens=16, heldout_tokens=1000)
    assert rows.shape == (62, 17) and rows.dtype == np.int64
    assert scored_bytes == len(tokenizer.decode_bytes(rows[:, 1:].ravel().tolist()))
    every_row, all_bytes = file.heldout_rows(16, (file.num_tokens - 1) // 16 * 16)
    scored = np.concatenate([every_row[:1, :1].ravel(), every_row[:, 1:].ravel()])
    assert np.array_equal(scored, file.tokens[: len(scored)])
    assert all_bytes == file.bytes_of(file.tokens[1 : len(scored)])
    assert {tuple(row) for row in rows.tolist()} <= {tuple(row) for row in every_row.tolist()}
    for tokens, says in ((15, "less than one row"), (file.num_tokens + 16, "Set heldout_tokens to that or less")):
        with pytest.raises(DataError, match=says):
            file.heldout_rows(16, tokens)


class Places(packing.TokenFile):
    """Gives the places of tokens in the file instead of the tokens: many rows of a text are equal."""

    def rows(self, starts, sequence_tokens):
        return np.asarray(starts)[:, None] + np.arange(sequence_tokens + 1)

    def bytes_of(self, tokens):
        return 0


def test_rows_to_tune_by_share_no_target_with_those_to_judge_by(packed):
    file = Places(packed[2].path, packed[2].packed, packed[2].byte_lengths)
    targets = lambda tokens, part: set(file.heldout_rows(16, tokens, part)[0][:, 1:].ravel().tolist())  # noqa: E731
    there = file.num_rows(16)
    for rows in (1, there // 3, there // 2):
        test, valid = targets(16 * rows, "test"), targets(16 * rows, "valid")
        assert len(test) == len(valid) == 16 * rows
        assert not test & valid
        assert max(valid) < file.num_tokens
    with pytest.raises(DataError, match=f"half of them .* Set heldout_tokens to {there // 2 * 16} or less"):
        file.heldout_rows(16, 16 * (there // 2 + 1), "valid")


def test_a_tokenizer_that_loses_text_is_refused(tmp_path, packed):
    tokenizer, snapshot, _ = packed
    table = json.loads(tokenizer.path.read_text(encoding="utf-8"))
    table["normalizer"] = {"type": "Replace", "pattern": {"String": "of"}, "content": ""}
    (tmp_path / "tokenizer.json").write_text(json.dumps(table), encoding="utf-8")
    with pytest.raises(DataError, match="does not keep the text"):
        pack(snapshot.train, packing.Tokenizer(tmp_path / "tokenizer.json"), tmp_path / "cache")


@pytest.mark.parametrize("suffix", [".tokens", ".counts", ".json"])
@pytest.mark.parametrize("damage", ["cut", "changed", "gone"])
def test_a_damaged_file_is_made_again(tmp_path, packed, suffix, damage):
    tokenizer, snapshot, file = packed
    victim, good = file.path.with_suffix(suffix), np.array(file.tokens)
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 0xFF
    victim.unlink()
    if damage != "gone":
        victim.write_bytes(data if damage == "changed" else data[:-1])
    again = pack(snapshot.train, tokenizer, tmp_path / "cache")
    assert np.array_equal(again.tokens, good) and again.packed == file.packed
    assert np.array_equal(np.bincount(good, minlength=400), again.counts)


def test_an_intact_file_is_not_made_again(tmp_path, packed):
    tokenizer, snapshot, file = packed
    before = file.path.stat().st_ino
    pack(snapshot.train, tokenizer, tmp_path / "cache")
    assert file.path.stat().st_ino == before


KILLED = """
import sys, time
from pathlib import Path
from efficientllm.data.cache import partial_file, publish
with partial_file(Path(sys.argv[1])) as partial, partial.open("wb") as file:
    file.write(b"half"); file.flush()
    print("writing", flush=True)
    time.sleep(60)
    publish(partial, Path(sys.argv[1], "whole"))
"""


def test_a_killed_write_leaves_no_half_file_under_the_name(tmp_path):
    (tmp_path / "whole").write_bytes(b"the old one")
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"writing\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert (tmp_path / "whole").read_bytes() == b"the old one"
