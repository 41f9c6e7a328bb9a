"""Quality at its floor: a model no better than counting tokens has no quality to lose."""

from __future__ import annotations

from efficientllm.analysis.table import Cell
from efficientllm.records.measurement import Measurement
from efficientllm.units import significant

#: The sanity line that quality must clear: bits a byte by token frequencies alone.
FLOOR_FIGURE = "unigram_bits_per_byte"


def at_floor(cell: Cell, records: list[Measurement]) -> bool:
    """Whether the upper end of a row's bits per byte (its value, without an interval) is above the unigram line.

    >>> from msgspec.structs import replace
    >>> from efficientllm.records.examples import example_measurement
    >>> record = replace(example_measurement(), figures={"unigram_bits_per_byte": 3.0})
    >>> at_floor(Cell(value=2.9, low=2.7, high=3.1), [record]), at_floor(Cell(value=2.9), [record])
    (True, False)
    """
    lines = [record.figures[FLOOR_FIGURE] for record in records if FLOOR_FIGURE in record.figures]
    worst = cell.high if cell.high is not None else cell.value
    return worst is not None and bool(lines) and worst >= min(lines)


def reason(records: list[Measurement]) -> str:
    """Return why a row at the floor has no figure that rests on its quality."""
    line = min(record.figures[FLOOR_FIGURE] for record in records if FLOOR_FIGURE in record.figures)
    return f"at_floor: quality does not clear the {significant(line)} bits/byte of token frequencies alone"
