"""Whole samples packed into rows of one length, on disk and read by memory map."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from efficientllm.data._encode_samples import NOT_LEARNED, Encoded, Kept
from efficientllm.data._response_floor import Commonest, commonest_of
from efficientllm.data.cache import Stamp, is_intact, partial_file, publish, read_record, stamp, write_record

#: So many rows are open at once; the fullest is closed when a sample fits none of them. More packs tighter, and slower.
_OPEN_ROWS = 1024
#: tokens, targets, sequence ids.
_PLANES = 3


class RowsRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The record beside a file of rows: how many they are, how they came about, and the file's stamp."""

    num_rows: int
    sequence_tokens: int
    figures: dict[str, float]
    commonest: Commonest
    rows: Stamp


@dataclass(frozen=True)
class PackedRows:
    """Rows of whole samples. R rows of T tokens; padding is at a row's end.

    Attributes:
        planes: int32 [3, R, T]: tokens, targets, sequence ids.
    """

    planes: npt.NDArray[np.int32]

    @property
    def tokens(self) -> npt.NDArray[np.int32]:
        """Inputs, [R, T]; 0 in the padding."""
        return np.asarray(self.planes[0], dtype=np.int32)

    @property
    def targets(self) -> npt.NDArray[np.int32]:
        """The next token where it is learned and of the same sample, else -100: [R, T]."""
        return np.asarray(self.planes[1], dtype=np.int32)

    @property
    def sequence_ids(self) -> npt.NDArray[np.int32]:
        """Which sample of its row a token is of, from 0; the padding has the id after the last one's: [R, T]."""
        return np.asarray(self.planes[2], dtype=np.int32)

    @property
    def num_rows(self) -> int:
        """How many rows there are."""
        return int(self.planes.shape[1])

    @cached_property
    def learned_targets(self) -> npt.NDArray[np.int64]:
        """Targets of each row: [R]."""
        return np.asarray((self.targets != NOT_LEARNED).sum(axis=1), dtype=np.int64)

    @cached_property
    def most_sequences(self) -> int:
        """The most samples that a row has, its padding counted as one."""
        return int((np.diff(self.sequence_ids, axis=1) != 0).sum(axis=1).max()) + 1

    @cached_property
    def apart(self) -> bool:
        """Whether causal attention alone keeps samples apart: no target of any row is behind another sample or padding.

        Padding comes last, where nothing that is a target sees it. One answer for all rows, because steps that take
        now one path of attention, now another, are no steps of one speed.
        """
        return not bool(((self.targets != NOT_LEARNED) & (self.sequence_ids > 0)).any())


def cached_rows(
    path: Path, sequence_tokens: int, make: Callable[[], Kept]
) -> tuple[PackedRows, dict[str, float], Commonest]:
    """Return the rows of a file, their figures and what their samples say most often, from the cache or made now.

    Args:
        path: the file, whose name depends on all that decides about it.
        sequence_tokens: length of a row.
        make: gives the samples to pack.
    """
    record_path = path.with_suffix(".json")
    known = read_record(record_path, RowsRecord)
    if known is None or not is_intact(path, known.rows):
        kept = make()
        planes = pack_rows(kept.samples, sequence_tokens)
        with partial_file(path.parent) as partial:
            planes.astype("<i4").tofile(partial)
            written = stamp(partial)
            publish(partial, path)
        rows = PackedRows(planes)
        figures = {**kept.figures(), **_figures(rows, kept.samples)}
        known = RowsRecord(
            num_rows=rows.num_rows,
            sequence_tokens=sequence_tokens,
            figures=figures,
            commonest=commonest_of(kept.samples),
            rows=written,
        )
        write_record(record_path, known)
    shape = (_PLANES, known.num_rows, sequence_tokens)
    planes = np.memmap(path, dtype="<i4", mode="r", shape=shape) if known.num_rows else np.zeros(shape, dtype="<i4")
    return PackedRows(planes), dict(known.figures), known.commonest


def pack_rows(samples: Sequence[Encoded], sequence_tokens: int) -> npt.NDArray[np.int32]:
    """Return rows of whole samples, int32 [3, R, T]: tokens, targets, sequence ids.

    Best fit: a sample goes to the fullest open row that has room for it.
    """
    rows = best_fit([len(sample.tokens) for sample in samples], sequence_tokens)
    planes = np.zeros((_PLANES, len(rows), sequence_tokens), dtype=np.int32)
    planes[1] = NOT_LEARNED
    for row, members in enumerate(rows):
        start = 0
        for number, member in enumerate(members):
            sample, end = samples[member], start + len(samples[member].tokens)
            planes[0, row, start:end] = sample.tokens
            planes[1, row, start:end] = sample.targets()
            planes[2, row, start:end] = number
            start = end
        planes[2, row, start:] = len(members)
    return planes


def best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Return which items share a bin, in the order in which bins were opened.

    >>> best_fit([6, 5, 4, 3], capacity=10)
    [[0, 2], [1, 3]]
    """
    bins: list[list[int]] = []
    rooms: list[tuple[int, int]] = []  # (room, bin) of the open ones, sorted
    for item, length in enumerate(lengths):
        place = bisect_left(rooms, (length, -1))
        if place < len(rooms):
            room, chosen = rooms.pop(place)
        else:
            room, chosen = capacity, len(bins)
            bins.append([])
        bins[chosen].append(item)
        if room > length:
            insort(rooms, (room - length, chosen))
            if len(rooms) > _OPEN_ROWS:
                rooms.pop(0)
    return bins


def _figures(rows: PackedRows, samples: Sequence[Encoded]) -> dict[str, float]:
    places = max(1, rows.num_rows * rows.planes.shape[2])
    num_tokens = sum(len(sample.tokens) for sample in samples)
    return {
        "num_rows": float(rows.num_rows),
        "num_tokens": float(num_tokens),
        "padding_ratio": 1 - num_tokens / places,
        "learned_ratio": float(rows.learned_targets.sum()) / places,
    }
