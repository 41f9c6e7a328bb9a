"""One section: the rows of a group in one of its windows, judged against each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from efficientllm.analysis import cells as cell_of
from efficientllm.analysis import floor
from efficientllm.analysis.bound import implementation_bound
from efficientllm.analysis.catalogue import applicable, entries, headline
from efficientllm.analysis.cells import Seen
from efficientllm.analysis.group import Axes, Group, Point, conditions
from efficientllm.analysis.metrics._contract import Absent, MetricEntry
from efficientllm.analysis.pareto import axes_of, front
from efficientllm.analysis.select import counts
from efficientllm.analysis.table import Cell, Row, Section
from efficientllm.analysis.words import where
from efficientllm.records.measurement import Measurement
from efficientllm.records.window import Caution, Window

#: What counts for the front, where it is known.
PARETO = ("memory_mean", "latency_median", "bits_per_byte")
#: Counts stated beside a row's name, and how near it came to the hardware's limit.
_STATED = ("parameters", "cache_bytes_per_token", "state_bytes", "attained")
#: Protocols whose rows are never ranked.
_UNRANKED = ("smoke",)

Table = dict[str, dict[str, Cell]]


def section(group: Group, point: Point, *, detail: bool = False) -> tuple[Section, list[Caution]]:
    """Return a section and, by code, where its reader must beware.

    Args:
        group: records that may be compared.
        point: name and coordinates of the window.
        detail: whether the columns are all metrics that apply, not only the one of each kind.
    """
    name, coordinates = point
    window = Window(name=name, coordinates=dict(coordinates))
    metrics = applicable(name) if detail else headline(name)
    seen = {axes: _seen(records, window) for axes, records in group.rows.items()}
    measured = {axes: found for axes, found in seen.items() if found}
    table, cautions = _judged(group, measured, metrics, window)
    beaten = _beaten(group, table, metrics)
    rows = [_row(group, axes, found, table[_name(group, axes)], beaten) for axes, found in measured.items()]
    failed = [_failed_row(records, window) for axes, records in group.rows.items() if axes not in measured]
    columns = tuple(entry.column_for(name) for entry in metrics)
    cautions += _implementations(group, measured, table, window)
    made = Section(
        stage=group.stage, window=window.label(), columns=columns, rows=(*rows, *failed), conditions=conditions(group)
    )
    return made, cautions


def _seen(records: Sequence[Measurement], wanted: Window) -> list[Seen]:
    """Return the records that count, with their window, where both went well."""
    found = []
    for record in records:
        window = record.find(wanted.name, **wanted.coordinates) if counts(record) else None
        if window is not None and window.outcome == "ok":
            found.append((record, window))
    return found


def _judged(
    group: Group, measured: Mapping[Axes, list[Seen]], metrics: Sequence[MetricEntry], window: Window
) -> tuple[Table, list[Caution]]:
    """Return row -> metric -> cell, with verdicts and ranks where the protocol allows them."""
    base = group.baseline()
    by_round = {record.trial.repeat: record for record in group.rows.get(base or (), ()) if counts(record)}
    base_name = _name(group, base) if base is not None and base in measured else None
    table: Table = {_name(group, axes): {} for axes in measured}
    columns = {
        entry.column.key: {
            _name(group, axes): cell_of.measure(entry, seen, by_round) for axes, seen in measured.items()
        }
        for entry in metrics
    }
    floored = _floored(group, measured, columns)
    for entry in metrics:
        cells = columns[entry.column.key]
        if entry.group in ("quality", "compression"):
            cells |= {name: _floored_cell(entry, cells[name], why) for name, why in floored.items()}
        if not _ranked(group):
            judged = cells
        else:
            fit = {name: cell for name, cell in cells.items() if name not in floored or entry.group != "quality"}
            judged = cells | cell_of.judge(entry, fit, base_name)
        for name, cell in judged.items():
            table[name][entry.column.key] = cell
    place = where(group.stage, window.label())
    cautions = [Caution(code="at_floor", text=f"{place} ({', '.join(floored)})")] if floored else []
    if not _ranked(group):
        cautions.append(Caution(code="not_ranked", text=group.stage))
    return table, cautions


def _floored(
    group: Group, measured: Mapping[Axes, list[Seen]], columns: Mapping[str, Mapping[str, Cell]]
) -> dict[str, str]:
    """Return the rows whose quality is at its floor, with the reason."""
    quality = columns.get("bits_per_byte", {})
    found = {}
    for axes, seen in measured.items():
        name, records = _name(group, axes), [record for record, _ in seen]
        if name in quality and floor.at_floor(quality[name], records):
            found[name] = floor.reason(quality[name], records)
    return found


def _floored_cell(entry: MetricEntry, cell: Cell, why: str) -> Cell:
    """Quality at the floor is shown but not judged; what rests on it is absent."""
    return Cell(absent=why) if entry.group == "compression" and not cell.absent else cell


def _beaten(group: Group, table: Table, metrics: Sequence[MetricEntry]) -> dict[str, tuple[str, ...]]:
    if not _ranked(group) or len(table) < 2:
        return {}
    columns = [entry.column for entry in metrics]
    margins = {entry.column.key: entry.margin for entry in metrics}
    axes = axes_of(columns, margins, table, PARETO)
    return front(table, axes) if len(axes) > 1 else {}


def _row(
    group: Group, axes: Axes, seen: Sequence[Seen], cells: dict[str, Cell], beaten: Mapping[str, tuple[str, ...]]
) -> Row:
    name = _name(group, axes)
    return Row(
        technique=name,
        baseline=seen[0][0].trial.baseline,
        reason=_partial(group.rows[axes], seen),
        stated=_stated(seen),
        cells=cells,
        measurements=tuple(record.id for record, _ in seen),
        on_front=not beaten[name] if name in beaten else None,
        beaten_by=beaten.get(name, ()),
    )


def _partial(records: Sequence[Measurement], seen: Sequence[Seen]) -> str:
    """Say that not all repeats gave a figure."""
    if len(seen) == len(records):
        return ""
    ids = {record.id for record, _ in seen}
    ended = next(record for record in records if record.id not in ids)
    return f"{len(seen)} of {len(records)} repeats count; another ended {ended.outcome}: {ended.reason}"


def _failed_row(records: Sequence[Measurement], wanted: Window) -> Row:
    record = records[0]
    window = record.find(wanted.name, **wanted.coordinates)
    outcome, reason = record.outcome, record.reason
    if window is not None and window.outcome != "ok":
        outcome, reason = window.outcome, window.reason
    elif counts(record):
        outcome, reason = "missing", "its records do not hold this window"
    return Row(
        technique=record.trial.technique(),
        baseline=record.trial.baseline,
        outcome=outcome,
        reason=reason or "no reason was recorded",
        measurements=tuple(r.id for r in records),
    )


def _stated(seen: Sequence[Seen]) -> dict[str, float]:
    """Return the counts stated beside a row, from its first record that has them; `attained` as the mean."""
    stated = {}
    for entry in entries():
        if entry.column.key not in _STATED:
            continue
        values = [value for record, window in seen if not isinstance(value := entry.value(record, window), Absent)]
        if values:
            key = "parameters_total" if entry.column.key == "parameters" else entry.column.key
            stated[key] = sum(values) / len(values)
    return {key: value for key, value in stated.items() if value or key != "state_bytes"}


def _implementations(group: Group, measured: Mapping[Axes, list[Seen]], table: Table, window: Window) -> list[Caution]:
    stated = {_name(group, axes): _stated(seen) for axes, seen in measured.items()}
    attained = {name: counts_of["attained"] for name, counts_of in stated.items() if "attained" in counts_of}
    latency = {name: cells["latency_median"] for name, cells in table.items() if "latency_median" in cells}
    names = implementation_bound(latency, attained)
    if not names or not _ranked(group):
        return []
    place = where(group.stage, window.label())
    return [Caution(code="implementation_bound", text=f"{place} ({', '.join(names)})")]


def _name(group: Group, axes: Axes) -> str:
    return group.rows[axes][0].trial.technique()


def _protocol(group: Group) -> str:
    return group.records()[0].trial.protocol.name


def _ranked(group: Group) -> bool:
    return _protocol(group) not in _UNRANKED
