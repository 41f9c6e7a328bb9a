"""What every reader of instruction data is held to: each check takes an entry and raises AssertionError.

The data is what the entry's `example` writes, in a folder that is there for one check.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from efficientllm.checking import hold_one_line, run_checks
from efficientllm.data.corpora._contract import SPLITS, Split
from efficientllm.data.instructions._contract import Instructions, InstructionsEntry, Sample, prompt_of
from efficientllm.errors import UserError
from efficientllm.records.choice import Scalar

Check = Callable[[InstructionsEntry], None]

#: How many samples of a split are looked at.
_MOST = 1000

#: What stands in a file in place of samples.
_UNUSABLE = {"nothing": b"", "bytes that are no text": b"\xff\xfe\x00\x89\x00" * 9}
#: Likewise, for readers of JSON: records without a response.
_UNANSWERED = {"a record of text alone": b'{"text": "a"}\n', "an empty response": b'{"prompt": "a", "response": ""}\n'}


def check(entry: InstructionsEntry) -> list[tuple[str, str | None]]:
    """Run all checks and return (what was checked, None or how it failed)."""
    return run_checks(CHECKS, entry)


def opens(entry: InstructionsEntry) -> None:
    """It opens with the options of its example, or with none, and has a title."""
    assert entry.title.strip(), "its title is empty"
    with TemporaryDirectory() as folder:
        options = entry.example(Path(folder))
        parameters = inspect.signature(entry.open).parameters.values()
        wanted = [p.name for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
        missing = [name for name in wanted if name not in options]
        assert not missing, f"the option {missing[0]!r} has no default, and `example` does not return it"
        entry.open(**options)


def samples(entry: InstructionsEntry) -> None:
    """Both splits have samples: conversations that end with what the assistant says, the answer a part of it."""
    with TemporaryDirectory() as folder:
        opened = _opened(entry, Path(folder))
        for split in SPLITS:
            found = _beginning(opened, split)
            assert found, f"{split}: no samples"
            for number, sample in enumerate(found, start=1):
                _hold_sample(sample, f"{split}, sample {number}")


def repeats(entry: InstructionsEntry) -> None:
    """Read again, and opened again, it gives the same samples in the same order, under the same fingerprint."""
    with TemporaryDirectory() as folder:
        options = entry.example(Path(folder))
        first, second = entry.open(**options), entry.open(**options)
        for split in SPLITS:
            found = _beginning(first, split)
            assert _beginning(first, split) == found, f"{split}: a second reading gives other samples"
            assert _beginning(second, split) == found, f"{split}: opened again, the data gives other samples"
        assert first.fingerprint() == second.fingerprint(), "fingerprint: opened again, the data has another one"


def apart(entry: InstructionsEntry) -> None:
    """No prompt is in both splits."""
    with TemporaryDirectory() as folder:
        opened = _opened(entry, Path(folder))
        train, heldout = ({prompt_of(sample) for sample in _beginning(opened, split)} for split in SPLITS)
        assert not train & heldout, f"a prompt is in both splits: {min(train & heldout)[:60]!r}"


def details(entry: InstructionsEntry) -> None:
    """What it says of itself is text, before the samples are read and after."""
    with TemporaryDirectory() as folder:
        opened = _opened(entry, Path(folder))
        for _ in range(2):
            told = opened.details
            assert all(isinstance(part, str) for item in told.items() for part in item), "keys and values must be text"
            next(iter(opened.samples("heldout")), None)


def refuses(entry: InstructionsEntry) -> None:
    """Files that are gone, empty, no text or without responses give an error of one line, or no samples: never others.

    For a reader whose `example` returns the path of what it wrote; one that reads no files has nothing to refuse.
    """
    lines = any(ending in (".jsonl", ".json") for ending in entry.endings)
    for what, content in (_UNUSABLE | (_UNANSWERED if lines else {})).items():
        with TemporaryDirectory() as folder:
            options = entry.example(Path(folder))
            if not _paths(options, Path(folder)):
                return
            for file in _files(Path(folder)):
                file.write_bytes(content)
            assert _end_of(entry, options, what) != "samples", f"of files with {what} it gives samples"
    with TemporaryDirectory() as folder:
        options = entry.example(Path(folder))
        for path in _paths(options, Path(folder)):
            path.rename(path.with_name("elsewhere"))
        assert _end_of(entry, options, "files that are gone") == "error", "a path that is not there gives no error"


def _end_of(entry: InstructionsEntry, options: dict[str, Scalar], what: str) -> Literal["samples", "nothing", "error"]:
    """Return what reading ends in: samples, nothing, or an error of one line."""
    try:
        opened = entry.open(**options)
        return "samples" if any(_beginning(opened, split) for split in SPLITS) else "nothing"
    except UserError as error:
        hold_one_line(error, what)
        return "error"
    except Exception as error:
        raise AssertionError(f"{what} end in {type(error).__name__}, not in a DataError that says where") from error


def _hold_sample(sample: object, where: str) -> None:
    assert isinstance(sample, Sample), f"{where} is {type(sample).__name__}, not a Sample"
    roles = [message.role for message in sample.messages]
    assert roles and roles[-1] == "assistant", f"{where} does not end with a turn of the assistant"
    said, before = sample.messages[-1].content, sample.messages[:-1]
    assert said.strip(), f"{where}: a response is empty"
    assert any(message.content.strip() for message in before), f"{where} has no prompt"
    assert sample.answer in said, f"{where}: an answer ({sample.answer!r}) is no part of its response"


def _opened(entry: InstructionsEntry, folder: Path) -> Instructions:
    return entry.open(**entry.example(folder))


def _beginning(opened: Instructions, split: Split) -> list[Sample]:
    return [sample for sample, _ in zip(opened.samples(split), range(_MOST), strict=False)]


def _paths(options: dict[str, Scalar], folder: Path) -> list[Path]:
    """Return the options that are a path of the example."""
    texts = [Path(value) for value in options.values() if isinstance(value, str)]
    return [path for path in texts if path.is_relative_to(folder) and path != folder and path.exists()]


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


#: What is checked -> the check.
CHECKS: dict[str, Check] = {
    "opens as its example says": opens,
    "samples with prompt and response": samples,
    "the same each time": repeats,
    "no prompt in both splits": apart,
    "details are text": details,
    "unusable files are refused": refuses,
}
