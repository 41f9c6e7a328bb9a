"""From a recipe's choice to opened instruction data."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from efficientllm.data.corpus import Reader, check_splits, find_reader
from efficientllm.data.instructions._contract import Instructions
from efficientllm.errors import DataError
from efficientllm.records.choice import Choice


def find_instructions_reader(choice: Choice) -> Reader:
    """Return the reader of a choice: an entry, a user's own `.py` file, or the one that a plain path's ending names.

    Raises:
        UnknownNameError: neither an entry nor a path.
        DataError: a path that does not exist.
    """
    return find_reader(choice, "instructions")


def open_instructions(choice: Choice) -> Instructions:
    """Open the instruction data that a recipe chose.

    Raises:
        UnknownNameError: no such reader.
        DataError: a path that does not exist, or an option that the reader does not take.
    """
    opened: Instructions = find_instructions_reader(choice).open()
    return opened


def check_instructions(choice: Choice) -> None:
    """Open instruction data and read the first sample of each split: cheap, for before any trial is run.

    Raises:
        UserError: whatever keeps the samples from being read, in one line.
    """
    opened = open_instructions(choice)
    check_splits(opened.samples, lambda split: no_samples(choice.label(), split, opened.details))


def no_samples(name: str, split: str, details: Mapping[str, str] = MappingProxyType({})) -> DataError:
    """Return the error of a split without samples; `details` are the reader's, once the split was read."""
    what = "no training sample" if split == "train" else "no held-out sample"
    path, empty = details.get("path", ""), details.get(f"{split}_left_out_no_response")
    whose = f"{name} {path}" if path and path not in name else name
    so = f": {empty} that were read have none" if empty else ""
    give = "Give samples with responses" if empty else "Give more samples, or a folder with train and heldout files"
    return DataError(f"instructions {whose} have {what} with a response{so}. {give}.")
