"""From a recipe's choice to opened instruction data."""

from __future__ import annotations

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
    check_splits(open_instructions(choice).samples, lambda split: no_samples(choice.label(), split))


def no_samples(name: str, split: str) -> DataError:
    """Return the error of a split without samples."""
    what = "no training sample" if split == "train" else "no held-out sample"
    return DataError(
        f"instructions {name} have {what} with a response. Give more samples, or a folder with train and heldout files."
    )
