"""The tokenizer: deterministic training, exact bytes, existing tokenizers of the usual families."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers

from efficientllm.data.bpe import train_bpe
from efficientllm.data.pieces import pieces
from efficientllm.data.tokenizer import END_OF_TEXT, Tokenizer, existing_tokenizer
from efficientllm.errors import DataError

SOURCE = Path(json.__file__).parent
TEXTS = [path.read_text(encoding="utf-8") for path in sorted(SOURCE.glob("*.py"))]
HARD = "naïve 漢字 🙂\t\x1c \u00a0 e\u0301\r\n\n  def f(x):\n\n\n        return 'it''s' <|endoftext|> 12345\x00 "
#: Qwen2's pre-tokenizer.
QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Tokenizer:
    path = tmp_path_factory.mktemp("bpe") / "tokenizer.json"
    path.write_text(train_bpe(TEXTS, 400), encoding="utf-8")
    return Tokenizer(path)


def test_training_gives_identical_bytes_in_other_processes_whatever_the_threads(trained):
    code = (
        "import json, hashlib, pathlib\nfrom efficientllm.data.bpe import train_bpe\n"
        "texts = [p.read_text(encoding='utf-8') for p in sorted(pathlib.Path(json.__file__).parent.glob('*.py'))]\n"
        "print(hashlib.sha256(train_bpe(texts, 400).encode()).hexdigest())\n"
    )
    for settings in ({"RAYON_NUM_THREADS": "1", "PYTHONHASHSEED": "1"}, {"TOKENIZERS_PARALLELISM": "false"}, {}):
        run = subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, **settings}, capture_output=True, text=True
        )
        assert run.stdout.strip() == trained.sha256, run.stderr


def test_text_comes_back_byte_for_byte_and_byte_lengths_add_up(trained):
    for text in [*TEXTS, HARD]:
        (ids,) = trained.encode_batch([text])
        assert trained.decode_bytes(ids) == text.encode()
        assert trained.decode(ids) == text
        assert trained.byte_lengths[ids].sum() == len(text.encode())
    assert all(np.cumsum(trained.byte_lengths[ids])[-3:] <= len(HARD.encode()))


def test_text_that_spells_the_end_of_text_is_text(trained):
    (ids,) = trained.encode_batch([f"a{END_OF_TEXT}b"])
    assert trained.end_of_text not in ids
    assert trained.byte_lengths[trained.end_of_text] == 0 and trained.decode_bytes([trained.end_of_text]) == b""


def test_pieces_encode_to_the_tokens_of_the_whole(trained, tmp_path, monkeypatch):
    monkeypatch.setattr("efficientllm.data.pieces._PIECE_CHARACTERS", 50)
    qwen = tokenizers.Tokenizer(models.BPE())
    qwen.normalizer = normalizers.NFC()
    qwen.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    qwen.decoder = decoders.ByteLevel()
    special = {"special_tokens": ["<|endoftext|>"], "initial_alphabet": pre_tokenizers.ByteLevel.alphabet()}
    qwen.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=400, show_progress=False, **special))
    qwen.save(str(tmp_path / "tokenizer.json"))
    for tokenizer in (trained, existing_tokenizer(str(tmp_path))):
        for text in [*TEXTS, HARD * 20]:
            parts = list(pieces(text))
            assert len(parts) > 5 and "".join(parts) == text
            (whole,) = tokenizer.encode_batch([text])
            assert [i for ids in tokenizer.encode_batch(parts) for i in ids] == whole


def test_an_existing_tokenizer_is_found_by_folder_and_by_file(trained, tmp_path):
    (tmp_path / "tokenizer.json").write_bytes(trained.path.read_bytes())
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": {"content": "e"}}', encoding="utf-8")
    by_folder, by_file = existing_tokenizer(str(tmp_path)), existing_tokenizer(str(trained.path))
    assert by_folder.sha256 == by_file.sha256 == hashlib.sha256(trained.path.read_bytes()).hexdigest()
    assert by_folder.vocab_tokens == by_file.vocab_tokens == 400
    assert by_file.end_of_text == trained.end_of_text
    assert by_folder.end_of_text == trained.encode_batch(["e"])[0][0]
    assert by_folder.byte_lengths[by_folder.end_of_text] == 0


def test_a_stored_truncation_padding_or_template_changes_nothing(trained, tmp_path):
    inner = tokenizers.Tokenizer.from_file(str(trained.path))
    inner.enable_truncation(4)
    inner.enable_padding(length=9000)
    inner.post_processor = tokenizers.processors.TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", trained.end_of_text)]
    )
    inner.save(str(tmp_path / "tokenizer.json"))
    assert existing_tokenizer(str(tmp_path)).encode_batch([HARD]) == trained.encode_batch([HARD])


def test_a_tokenizer_with_byte_fallback_tells_the_bytes_of_its_tokens(tmp_path):
    words = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "b", "▁a", "é"]
    inner = tokenizers.Tokenizer(
        models.BPE({w: i for i, w in enumerate(words)}, [("▁", "a")], unk_token="<unk>", byte_fallback=True)
    )
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    inner.add_special_tokens(["<unk>", "<s>", "</s>"])
    inner.save(str(tmp_path / "tokenizer.json"))
    tokenizer = existing_tokenizer(str(tmp_path))
    (ids,) = tokenizer.encode_batch(["a b 漢é"])
    assert tokenizer.decode_bytes(ids) == " a b 漢é".encode()  # its own space before every text
    assert tokenizer.end_of_text == 2 and tokenizer.byte_lengths[:3].sum() == 0


def test_tokenizers_that_cannot_be_used_are_refused_in_one_line(tmp_path, trained, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.json").write_text("{}", encoding="utf-8")
    words = tokenizers.Tokenizer(models.WordPiece({"[UNK]": 0, "</s>": 1}, unk_token="[UNK]"))
    words.save(str(tmp_path / "words.json"))
    tokenizers.Tokenizer(models.BPE({"a": 0}, [])).save(str(tmp_path / "endless.json"))
    cases = {
        "empty": "holds no tokenizer.json",
        "bad.json": "is not a tokenizer",
        "none.json": "no such file or folder",
        "words.json": "is not byte-level",
        "endless.json": "does not say which token ends a document",
    }
    for name, says in cases.items():
        with pytest.raises(DataError, match=says) as error:
            existing_tokenizer(str(tmp_path / name)).byte_lengths.sum()
        assert "\n" not in str(error.value)
    with pytest.raises(DataError, match="not found on the hub") as error:
        existing_tokenizer("nobody/nothing")
    assert "\n" not in str(error.value)
