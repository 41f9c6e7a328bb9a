"""Rows of a section: with figures, or with the reason why there are none."""

from __future__ import annotations

from collections.abc import Sequence

from efficientllm.analysis.catalogue import entries
from efficientllm.analysis.cells import Seen
from efficientllm.analysis.metrics._contract import Absent
from efficientllm.analysis.select import counts
from efficientllm.analysis.table import Cell, Row
from efficientllm.records.measurement import Measurement
from efficientllm.records.window import Window

#: metric -> the key under which a row states it.
_STATED = {
    "parameters": "parameters_total",
    "parameters_active": "parameters_active",
    "cache_bytes_per_token": "cache_bytes_per_token",
    "state_bytes": "state_bytes",
    "attained": "attained",
}


def seen_in(records: Sequence[Measurement], wanted: Window) -> list[Seen]:
    """Return the records that count with their window, where both went well."""
    found = []
    for record in records:
        window = record.find(wanted.name, **wanted.coordinates) if counts(record) else None
        if window is not None and window.outcome == "ok":
            found.append((record, window))
    return found


def stated(seen: Sequence[Seen]) -> dict[str, float]:
    """Return what is stated beside a row's name: counts, and the share of the limit attained; means over records."""
    found = {}
    for entry in entries():
        if entry.column.key in _STATED:
            told = [entry.value(record, window) for record, window in seen]
            values = [value for value in told if not isinstance(value, Absent)]
            if any(values):
                found[_STATED[entry.column.key]] = sum(values) / len(values)
    return found


def measured_row(
    records: Sequence[Measurement],
    seen: Sequence[Seen],
    cells: dict[str, Cell],
    said: dict[str, float],
    beaten_by: tuple[str, ...] | None,
) -> Row:
    """Return the row of a technique that has figures.

    Args:
        records: all of the technique's records in the group.
        seen: those that count, with their window.
        cells: by metric.
        said: from `stated`.
        beaten_by: the rows that beat it, none where it is on the front, None where no front was made.
    """
    trial = records[0].trial
    return Row(
        technique=trial.technique(),
        baseline=trial.baseline,
        reason=_partial(records, seen),
        stated=said,
        cells=cells,
        measurements=tuple(record.id for record, _ in seen),
        on_front=None if beaten_by is None else not beaten_by,
        beaten_by=beaten_by or (),
    )


def failed_row(records: Sequence[Measurement], wanted: Window) -> Row:
    """Return the row of a technique without figures: how its first record ended, and why."""
    outcome, reason = _ended(records[0], wanted)
    return Row(
        technique=records[0].trial.technique(),
        baseline=records[0].trial.baseline,
        outcome=outcome,
        reason=reason,
        measurements=tuple(record.id for record in records),
    )


def _partial(records: Sequence[Measurement], seen: Sequence[Seen]) -> str:
    """Say that not all repeats gave a figure."""
    with_figures = {record.id for record, _ in seen}
    without = [record for record in records if record.id not in with_figures]
    if not without:
        return ""
    outcome, reason = _ended(without[0], seen[0][1])
    return f"{len(seen)} of {len(records)} repeats count; repeat {without[0].trial.repeat} ended {outcome}: {reason}"


def _ended(record: Measurement, wanted: Window) -> tuple[str, str]:
    """Return outcome and reason of a record without figures in a window, the window's own before the trial's."""
    window = record.find(wanted.name, **wanted.coordinates)
    if window is not None and window.outcome != "ok":
        return window.outcome, window.reason or "no reason was recorded"
    if record.invalid_codes:
        return "invalid", record.reason or ", ".join(record.invalid_codes)
    if record.outcome == "ok":
        return "missing", "its record does not hold this window"
    return record.outcome, record.reason or "no reason was recorded"
