"""JSON lines: a question a line, with choices and which is right, or with the exact answer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from efficientllm.data.corpora._files import files_fingerprint, find_files
from efficientllm.data.corpora.jsonl import json_lines
from efficientllm.data.questions._contract import Question, QuestionsEntry
from efficientllm.data.questions._layouts import question_of
from efficientllm.records.choice import Scalar

ENDINGS = (".jsonl", ".ndjson")


class JsonLines:
    """The questions of a file, or of all files of a folder by relative path.

    Raises:
        DataError: no such path; while reading, a line that is not JSON or holds no question (file:line).
    """

    def __init__(self, path: str) -> None:
        self._files = find_files(Path(path).expanduser(), ENDINGS, "jsonl", kind="questions")
        self.details = {"path": path, "files": str(len(self._files))}

    def questions(self) -> Iterator[Question]:
        """Yield the questions in the order of the lines."""
        for file in self._files:
            for where, record in json_lines(file):
                yield question_of(record, where)

    def fingerprint(self) -> str:
        """Return a hash of names, sizes and times of change of all files."""
        return files_fingerprint(self._files)


def _example(folder: Path) -> dict[str, Scalar]:
    asked = [
        {"question": f"{n} and one is", "choices": [str(n + 1), str(n + 2), str(n)], "answer": 0} for n in range(5)
    ]
    (folder / "example.jsonl").write_text("\n".join(map(json.dumps, asked)), encoding="utf-8")
    return {"path": str(folder / "example.jsonl")}


ENTRY = QuestionsEntry(
    title="JSON lines: question, choices and answer, or prompt and exact answer",
    open=JsonLines,
    example=_example,
    endings=ENDINGS,
)
