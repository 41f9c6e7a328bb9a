"""Checkpoints of a running training: whole or not there, the newest two of one run in a folder of its own.

    FOLDER/
      step-00000120/
        state.json            what it belongs to, how far it is, size and CRC-32 of every other file
        curve.safetensors     what was taken down until then, step by step
        *.safetensors         see `loop_state.py`; of several ranks see `sharded_state.py`
      .draft-…                one that is being written, or that a kill has left

    files, each on the disk ─► state.json ─► the folder's entries ─► renamed ─► FOLDER's entries

A kill or a loss of power at any instant leaves the older ones and perhaps a draft, which nobody reads.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from efficientllm.errors import ResultsError
from efficientllm.store.atomic import sync_folder
from efficientllm.training.curve_log import CurveLog
from efficientllm.training.group import first_does, num_ranks, rank_here, together
from efficientllm.training.loop import TrainLoop
from efficientllm.training.loop_state import Numbers, read_state, write_state
from efficientllm.training.tensor_file import file_crc32, write_tensors

STATE, CURVE = "state.json", "curve.safetensors"
#: So many are kept: the older one is there for the day on which the newer one cannot be read.
_KEPT = 2
_FORMAT = 1


class FileFacts(msgspec.Struct, frozen=True, kw_only=True):
    """By what a file is known to be whole."""

    num_bytes: int
    crc32: int


class State(msgspec.Struct, frozen=True, kw_only=True):
    """What a checkpoint says of itself.

    Attributes:
        origin: what it belongs to: name -> identity.
        ranks: processes that wrote it.
        sharded: whether they did it together, each its shares.
        step, first_loss: of the loop.
        numbers: of the optimiser.
        series: name and unit of what the curve holds.
        files: name -> facts.
    """

    format: int = _FORMAT
    origin: dict[str, str]
    ranks: int
    sharded: bool
    step: int
    first_loss: float
    numbers: Numbers
    series: tuple[tuple[str, str], ...]
    files: dict[str, FileFacts]

    @property
    def num_bytes(self) -> int:
        """Bytes of all files but this one."""
        return sum(file.num_bytes for file in self.files.values())


@dataclass(frozen=True)
class Found:
    """What a folder of checkpoints holds for a run.

    Attributes:
        state: of the newest that is whole and of this run; None if there is none.
        refused: one line each on those that are newer and cannot be used.
    """

    state: State | None = None
    refused: tuple[str, ...] = ()


class Checkpoints:
    """The checkpoints of one run; of several ranks all call every method together.

    Args:
        folder: theirs alone.
        origin: name -> identity of what decides how the run goes: trial, environment, text.
    """

    def __init__(self, folder: Path, origin: Mapping[str, str]) -> None:
        self.folder, self.origin = folder, dict(origin)

    def save(self, loop: TrainLoop, curve: CurveLog) -> State:
        """Write a checkpoint of this moment, and forget all but the newest two.

        Raises:
            ResultsError: it cannot be written (a full disk); then nothing of it is left.
            Unsupported: the optimiser remembers what no checkpoint can hold.
        """
        draft = self.folder / f".draft-{loop.steps_done:08}"
        try:
            first_does(lambda: self._make(draft))
            checksums, numbers = _write(loop, draft)
            return first_does(lambda: self._put_in_place(draft, loop, curve, checksums, numbers))
        except OSError as error:
            raise ResultsError(f"no checkpoint of step {loop.steps_done}: {error}") from error
        finally:
            if rank_here() == 0:
                shutil.rmtree(draft, ignore_errors=True)

    def find(self) -> Found:
        """Return the newest checkpoint that can be used, and why newer ones cannot; these and drafts are removed."""
        return first_does(self._find)

    def load(self, state: State, loop: TrainLoop, curve: CurveLog) -> None:
        """Put a checkpoint that was found into a loop that has taken no step, and what was taken down into a log.

        Raises:
            ResultsError: it is whole and of this run, but does not fit.
        """
        folder = self._folder(state.step)
        if state.sharded:
            from efficientllm.training.sharded_state import read_shards

            read_shards(loop, folder, state.numbers)
        else:
            read_state(loop, folder, state.numbers)
        loop.go_on(state.step, state.first_loss)
        curve.load(folder / CURVE, state.series)

    def _make(self, draft: Path) -> None:
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)

    def _put_in_place(
        self, draft: Path, loop: TrainLoop, curve: CurveLog, checksums: dict[str, int], numbers: Numbers
    ) -> State:
        checksums = {**checksums, CURVE: write_tensors(draft / CURVE, curve.tensors())}
        state = State(
            origin=self.origin,
            ranks=num_ranks(),
            sharded=together(),
            step=loop.steps_done,
            first_loss=loop.first_loss,
            numbers=numbers,
            series=curve.series,
            files={
                name: FileFacts(num_bytes=(draft / name).stat().st_size, crc32=checksum)
                for name, checksum in checksums.items()
            },
        )
        with (draft / STATE).open("wb") as file:
            file.write(msgspec.json.encode(state))
            file.flush()
            os.fsync(file.fileno())
        sync_folder(draft)
        target = self._folder(state.step)
        shutil.rmtree(target, ignore_errors=True)
        draft.rename(target)
        sync_folder(self.folder)
        for old in self._steps()[_KEPT:]:
            shutil.rmtree(self._folder(old), ignore_errors=True)
        return state

    def _find(self) -> Found:
        for left in self.folder.glob(".draft-*"):
            shutil.rmtree(left, ignore_errors=True)
        refused: list[str] = []
        for step in self._steps():
            read = self._read(step)
            if isinstance(read, State):
                return Found(read, tuple(refused))
            refused.append(f"the one of step {step} {read}")
            shutil.rmtree(self._folder(step), ignore_errors=True)
        return Found(None, tuple(refused))

    def _read(self, step: int) -> State | str:
        """Return what a checkpoint says of itself, or why it cannot be used."""
        folder = self._folder(step)
        try:
            state = msgspec.json.decode((folder / STATE).read_bytes(), type=State)
            return self._foreign(state) or _torn(folder, state) or state
        except (OSError, msgspec.DecodeError) as error:
            return f"cannot be read: {error}"

    def _foreign(self, state: State) -> str:
        if state.format != _FORMAT:
            return f"is of format {state.format}, not {_FORMAT}"
        for name in sorted({*state.origin, *self.origin}):
            theirs, ours = state.origin.get(name, "none"), self.origin.get(name, "none")
            if theirs != ours:
                return f"belongs to another {name} ({theirs[:16]}, here {ours[:16]})"
        if state.sharded != together():
            here = "several, sharded" if together() else "a single process"
            return (
                f"was written by {state.ranks} rank(s), {'sharded' if state.sharded else 'whole'}, and here is {here}"
            )
        return ""

    def _folder(self, step: int) -> Path:
        return self.folder / f"step-{step:08}"

    def _steps(self) -> list[int]:
        """Return the steps of which there are checkpoints, the newest first."""
        tails = (path.name.removeprefix("step-") for path in self.folder.glob("step-*"))
        return sorted((int(tail) for tail in tails if tail.isdecimal()), reverse=True)


def _write(loop: TrainLoop, draft: Path) -> tuple[dict[str, int], Numbers]:
    if together():
        from efficientllm.training.sharded_state import write_shards

        return write_shards(loop, draft)
    return write_state(loop, draft)


def _torn(folder: Path, state: State) -> str:
    """Return what is wrong with a checkpoint's files; empty if they are as they were written."""
    for name, facts in state.files.items():
        path = folder / name
        num_bytes = path.stat().st_size if path.is_file() else -1
        if num_bytes != facts.num_bytes:
            what = "is missing" if num_bytes < 0 else f"has {num_bytes} bytes of {facts.num_bytes}"
            return f"is torn: {name} {what}"
        if file_crc32(path) != facts.crc32:
            return f"is damaged: {name} is not what was written"
    return ""
