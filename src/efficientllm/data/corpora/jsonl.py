"""JSON lines: one object a line, its text under one key."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import msgspec

from efficientllm.data.corpora._contract import Corpus, CorpusEntry, example_documents
from efficientllm.data.corpora._records import RecordCorpus, text_of
from efficientllm.errors import DataError
from efficientllm.records.choice import Scalar

ENDINGS = (".jsonl", ".ndjson")


def open_jsonl(path: str, text_key: str = "text") -> Corpus:
    """Open a file of JSON lines, or a folder of them.

    Raises:
        DataError: no such path; while reading, a line that is not JSON or lacks the key (file:line).
    """
    return RecordCorpus("jsonl", path, ENDINGS, text_key, lambda file: _texts(file, text_key))


def json_lines(file: Path) -> Iterator[tuple[str, object]]:
    """Yield what each line that is not empty holds, with where it stands (file:line).

    Raises:
        DataError: a line that is not JSON.
    """
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                record = msgspec.json.decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise DataError(f"{file}:{number}: not a line of JSON: {error}. Mend or delete the line.") from error
            yield f"{file}:{number}", record


def _texts(file: Path, text_key: str) -> Iterator[str]:
    for where, record in json_lines(file):
        text = text_of(record, text_key, where)
        if text.strip():
            yield text


def _example(folder: Path) -> dict[str, Scalar]:
    lines = [json.dumps({"text": document}) for document in example_documents()]
    (folder / "example.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return {"path": str(folder / "example.jsonl")}


ENTRY = CorpusEntry(title="JSON lines: text_key of each line", open=open_jsonl, example=_example, endings=ENDINGS)
