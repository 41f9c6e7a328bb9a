"""One section: the rows of a group in one of its windows, judged against each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from efficientllm.analysis import cells as cell_of
from efficientllm.analysis import floor
from efficientllm.analysis.bound import implementation_bound
from efficientllm.analysis.catalogue import applicable, headline
from efficientllm.analysis.cells import Seen
from efficientllm.analysis.group import Group, Point, conditions
from efficientllm.analysis.metrics._contract import MetricEntry
from efficientllm.analysis.pareto import axes_of, front
from efficientllm.analysis.rows import failed_row, measured_row, seen_in, stated
from efficientllm.analysis.select import counts
from efficientllm.analysis.table import Cell, Section
from efficientllm.analysis.words import where
from efficientllm.records.measurement import Measurement
from efficientllm.records.window import Caution, Window

#: What counts for the front, where it is known.
PARETO = ("memory_mean", "latency_median", "bits_per_byte")
#: Protocols whose rows are never ranked.
_UNRANKED = ("smoke",)

#: All metrics have ranks in a table of so many rows at most: every pair is compared in each.
_MOST_RANKED_IN_DETAIL = 16

#: Row -> metric -> cell.
Table = dict[str, dict[str, Cell]]


def section(group: Group, point: Point, *, detail: bool = False) -> tuple[Section, list[Caution]]:
    """Return a section and, by code, where its reader must beware.

    Args:
        group: records that may be compared.
        point: name and coordinates of the window.
        detail: whether the columns are all metrics that apply, not only the one of each kind; ranks where rows are few.
    """
    window = Window(name=point[0], coordinates=dict(point[1]))
    metrics = applicable(window.name) if detail else headline(window.name)
    records = {found[0].trial.technique(): found for found in group.rows.values()}
    seen = {name: found for name, of in records.items() if (found := seen_in(of, window))}
    ranked = is_ranked(group)
    table, floored = measured(group, seen, metrics)
    if ranked:
        table = judged(group, table, metrics, floored, detail and len(table) > _MOST_RANKED_IN_DETAIL)
    beaten = _beaten(table, metrics) if ranked else {}
    said = {name: stated(found) for name, found in seen.items()}
    rows = [measured_row(records[name], seen[name], table[name], said[name], beaten.get(name)) for name in seen]
    failed = [failed_row(of, window) for name, of in records.items() if name not in seen]
    made = Section(
        stage=group.stage,
        window=window.label(),
        columns=tuple(entry.column_for(window.name) for entry in metrics),
        rows=(*rows, *failed),
        conditions=conditions(group),
    )
    bound = _implementations(table, said) if ranked else []
    return made, _cautions(group.stage, window, ranked, list(floored), bound)


def is_ranked(group: Group) -> bool:
    """Whether a group's protocol is careful enough for ranks."""
    return group.records()[0].trial.protocol.name not in _UNRANKED


def measured(
    group: Group, seen: Mapping[str, Sequence[Seen]], metrics: Sequence[MetricEntry]
) -> tuple[Table, dict[str, str]]:
    """Return every row's cells, not judged yet, and the rows whose quality is at its floor, with the reason.

    Quality at the floor is shown; what rests on it is absent, and so is a metric at a floor of its own.
    """
    base = group.baseline()
    by_round = {record.trial.repeat: record for record in group.rows.get(base or (), ()) if counts(record)}
    table: Table = {
        name: {entry.column.key: _above_floor(entry, cell_of.measure(entry, found, by_round), found)
               for entry in metrics}
        for name, found in seen.items()
    }  # fmt: skip
    floored = _floored(seen, table)
    technique = group.rows[base][0].trial.technique() if base is not None else ""
    for name, cells in table.items():
        why = floored.get(name) or (f"baseline: {floored[technique]}" if technique in floored else "")
        for entry in metrics if why else ():
            if entry.group == "compression" and cells[entry.column.key].value is not None:
                cells[entry.column.key] = Cell(absent=why)
    return table, floored


def _floored(seen: Mapping[str, Sequence[Seen]], table: Table) -> dict[str, str]:
    """Return the rows whose bits per byte are at their floor, with the reason."""
    found = {}
    for name, cells in table.items():
        records: list[Measurement] = [record for record, _ in seen[name]]
        if "bits_per_byte" in cells and floor.at_floor(cells["bits_per_byte"], records):
            found[name] = floor.reason(records)
    return found


def _above_floor(entry: MetricEntry, cell: Cell, found: Sequence[Seen]) -> Cell:
    reason = entry.floor(cell, found) if entry.floor is not None else ""
    return Cell(absent=reason) if reason else cell


def judged(
    group: Group, table: Table, metrics: Sequence[MetricEntry], floored: Mapping[str, str], detail: bool
) -> Table:
    """Return the cells with verdicts against the baseline and, but for details, ranks."""
    base = group.baseline()
    baseline = group.rows[base][0].trial.technique() if base is not None else None
    judged: Table = {name: dict(cells) for name, cells in table.items()}
    for entry in metrics:
        key = entry.column.key
        fit = {name: cells[key] for name, cells in table.items() if entry.group != "quality" or name not in floored}
        for name, cell in cell_of.judge(entry, fit, baseline, ranked=not detail).items():
            judged[name][key] = cell
    return judged


def _beaten(table: Table, metrics: Sequence[MetricEntry]) -> dict[str, tuple[str, ...]]:
    """Return by whom each row is beaten, for rows with all that counts; none with fewer than two rows or metrics."""
    margins = {entry.column.key: entry.margin for entry in metrics}
    axes = axes_of([entry.column for entry in metrics], margins, table, PARETO)
    return front(table, axes) if len(axes) > 1 and len(table) > 1 else {}


def _implementations(table: Table, said: Mapping[str, Mapping[str, float]]) -> list[str]:
    attained = {name: figures["attained"] for name, figures in said.items() if "attained" in figures}
    latency = {name: cells["latency_median"] for name, cells in table.items() if "latency_median" in cells}
    return implementation_bound(latency, attained) if len(latency) <= cell_of.MOST_RANKED else []


def _cautions(stage: str, window: Window, ranked: bool, floored: Sequence[str], bound: Sequence[str]) -> list[Caution]:
    place = where(stage, window.label())
    found = [Caution(code="not_ranked", text=stage)] if not ranked else []
    found += [Caution(code="at_floor", text=f"{place} ({', '.join(floored)})")] if floored else []
    found += [Caution(code="implementation_bound", text=f"{place} ({', '.join(bound)})")] if bound else []
    return found
