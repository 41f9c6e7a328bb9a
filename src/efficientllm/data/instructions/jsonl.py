"""JSON lines: a sample a line, in one of the usual layouts, which is found; or a JSON file with a list of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import msgspec

from efficientllm.data.corpora._contract import Split
from efficientllm.data.corpora._files import files_fingerprint, find_files, named_splits
from efficientllm.data.corpora.jsonl import json_lines
from efficientllm.data.instructions._contract import Instructions, InstructionsEntry
from efficientllm.data.instructions._example import example_pairs
from efficientllm.data.instructions._records import Placed, RecordInstructions
from efficientllm.errors import DataError
from efficientllm.records.choice import Scalar

_LINES = (".jsonl", ".ndjson")
ENDINGS = (*_LINES, ".json")


def open_jsonl(path: str, prompt_key: str = "", response_key: str = "", answer_after: str = "") -> Instructions:
    """Open a file, or all files of a folder; one with `train` and `heldout` (`valid`, `test` …) files names its splits.

    Args:
        path: the file or folder.
        prompt_key: where a line has its question, if it is none of the usual layouts.
        response_key: likewise its response.
        answer_after: what comes in a response before the part that is right or wrong.

    Raises:
        DataError: no such path; while reading, a line that is not JSON or has no sample (file:line).
    """
    root = Path(path).expanduser()
    # A .json file beside JSON lines says something about them and is no data.
    has_lines = root.is_dir() and any(path.suffix.lower() in _LINES for path in root.rglob("*"))
    files = find_files(root, _LINES if has_lines else ENDINGS, "jsonl", kind="instructions")
    splits = named_splits(root, files, telling_endings=ENDINGS)
    facts = {
        "path": path,
        "files": str(len(files)),
        "split": "by hash of the prompt" if splits is None else "named by the folder",
    }

    def read(split: Split) -> Iterator[Placed]:
        return (placed for file in (files if splits is None else splits[split]) for placed in _records(file))

    return RecordInstructions(
        read,
        splits is not None,
        lambda: files_fingerprint(files),
        facts,
        prompt_key=prompt_key,
        response_key=response_key,
        answer_after=answer_after,
    )


def _records(file: Path) -> Iterator[Placed]:
    if file.suffix.lower() != ".json":
        yield from json_lines(file)
        return
    try:
        records = msgspec.json.decode(file.read_bytes())
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: not JSON: {error}. Mend it, or call it .jsonl if it has an object a line.") from error
    if not isinstance(records, list):
        raise DataError(f"{file}: expected a list of samples, found {type(records).__name__}. Give a list, or .jsonl.")
    for number, record in enumerate(records, start=1):
        yield f"{file}, item {number}", record


def _example(folder: Path) -> dict[str, Scalar]:
    lines = [json.dumps({"question": question, "answer": answer}) for question, answer in example_pairs()]
    (folder / "example.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return {"path": str(folder / "example.jsonl")}


ENTRY = InstructionsEntry(
    title="JSON lines: prompt/response, messages, alpaca or sharegpt",
    open=open_jsonl,
    example=_example,
    endings=ENDINGS,
)
