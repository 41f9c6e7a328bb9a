"""The quality of served models text by text and task by task: no average, each beside the others.

Bits a byte and accuracy are compared with the baseline item by item (the same rows, the same questions), which tells
far smaller differences than two figures that are held against each other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from efficientllm.analysis import cells as cell_of
from efficientllm.analysis.catalogue import entry_of
from efficientllm.analysis.cells import Seen
from efficientllm.analysis.group import Group, conditions
from efficientllm.analysis.metrics._contract import MetricEntry
from efficientllm.analysis.rows import failed_row, measured_row, seen_in
from efficientllm.analysis.section import is_ranked
from efficientllm.analysis.select import counts
from efficientllm.analysis.table import Cell, Column, Section
from efficientllm.analysis.words import BY_TEXT
from efficientllm.records.measurement import Measurement
from efficientllm.records.settings import InferenceSettings
from efficientllm.records.window import Window
from efficientllm.stats.compare import Comparison, judged
from efficientllm.stats.items import paired_items
from efficientllm.units import percent_text, significant

#: metric -> the series of its items, where it has one; sections stand in this order.
_OF_TEXTS = {"bits_per_byte": "row_nats", "kl_divergence": "", "top1_agreement": ""}
_OF_TASKS = {"accuracy": "item_right", "answer_flips": ""}

#: technique -> its records, with the window of one text.
Rows = Mapping[str, Sequence[Seen]]


def quality_sections(group: Group) -> tuple[Section, ...]:
    """Return a section a metric, with a column for each text or task; none for a group that has one text alone."""
    records = [record for record in group.records() if isinstance(record.trial.settings, InferenceSettings)]
    names = list(dict.fromkeys(window.name for record in records if counts(record) for window in record.windows))
    texts = [name for name in names if name == "quality" or name.startswith("quality_")]
    tasks = [name for name in names if name.startswith("task_")]
    found = []
    for metrics, windows in ((_OF_TEXTS, texts), (_OF_TASKS, tasks)):
        for key, series in metrics.items():
            entry = entry_of(key)
            made = _section(group, entry, series, windows) if entry is not None and windows else None
            found += [made] if made is not None else []
    alone = len(texts) == 1 and not tasks and len(found) == 1
    return () if alone else tuple(found)


def _section(group: Group, entry: MetricEntry, series: str, windows: Sequence[str]) -> Section | None:
    """Return the section of a metric, None where no row has a figure of it."""
    records = {of[0].trial.technique(): of for of in group.rows.values()}
    columns, table, said = [], {name: dict[str, Cell]() for name in records}, conditions(group)
    least = []
    for name in windows:
        column = _column(entry, name, group)
        seen = {row: found for row, of in records.items() if (found := seen_in(of, Window(name=name)))}
        made = _cells(group, entry, series, seen)
        columns.append(column)
        for row in records:
            table[row][column.key] = made.get(row, Cell(absent=_why_none(records[row], name)))
        least += _smallest_told(group, seen, column.title) if series else []
    if not series and not any(cell.value is not None for cells in table.values() for cell in cells.values()):
        return None
    if least:
        said["smallest drop that the items tell"] = ", ".join(least)
    counted = {row: [(r, r.windows[0]) for r in records[row] if counts(r) and r.windows] for row in records}
    rows = [measured_row(records[row], counted[row], table[row], {}, None) for row in records if counted[row]]
    failed = [failed_row(records[row], Window(name=windows[0])) for row in records if not counted[row]]
    window = f"{BY_TEXT} {entry.column.title.replace(' ', '_')}"
    return Section(
        stage=group.stage, window=window, columns=tuple(columns), rows=(*rows, *failed), conditions=said
    )  # fmt: skip


def _column(entry: MetricEntry, window: str, group: Group) -> Column:
    kind, _, name = window.partition("_")
    settings = group.records()[0].trial.settings
    assert isinstance(settings, InferenceSettings)
    title = name.replace("_", " ") if name else settings.corpus.label()
    meaning = f"{entry.column.meaning}; of {title}, paired item by item"
    return replace(entry.column, key=f"{entry.column.key}.{name or kind}", title=title, meaning=meaning)


def _cells(group: Group, entry: MetricEntry, series: str, seen: Rows) -> dict[str, Cell]:
    base = group.baseline()
    by_round = {record.trial.repeat: record for record in group.rows.get(base or (), ()) if counts(record)}
    cells = {row: _above_floor(entry, cell_of.measure(entry, found, by_round), found) for row, found in seen.items()}
    technique = group.rows[base][0].trial.technique() if base is not None else ""
    if not series or technique not in seen or not is_ranked(group):
        return cells
    floored = {row for row, found in seen.items() if cells[row].value is None or _below_tokens(cells[row], found)}
    compared = _compared(series, seen, technique, floored, entry.column.better)
    for row, verdict in judged(compared, entry.margin).items():
        found = verdict.comparison
        cells[row] = replace(
            cells[row],
            verdict=verdict.word,
            ratio=found.ratio,
            ratio_low=found.low,
            ratio_high=found.high,
            by_item=found.low is not None and found.high is not None,
        )
    return cells


def _compared(series: str, seen: Rows, baseline: str, floored: set[str], better: str) -> dict[str, Comparison]:
    """Return the paired comparison of each row that has skill with a baseline that has."""
    if baseline in floored:
        return {}
    theirs = _items(seen[baseline], series)
    fit = {row: _items(found, series) for row, found in seen.items() if row != baseline and row not in floored}
    return {
        row: paired_items(own, theirs, better)
        for row, own in fit.items()
        if own.keys() & theirs.keys() and all(len(own[r]) == len(theirs[r]) for r in own.keys() & theirs.keys())
    }


def _items(found: Sequence[Seen], series: str) -> dict[int, tuple[float, ...]]:
    told = {record.trial.repeat: window.find(series) for record, window in found}
    return {repeat: items.values for repeat, items in told.items() if items is not None}


def _above_floor(entry: MetricEntry, cell: Cell, found: Sequence[Seen]) -> Cell:
    reason = entry.floor(cell, found) if entry.floor is not None else ""
    return Cell(absent=reason) if reason else cell


def _below_tokens(cell: Cell, found: Sequence[Seen]) -> bool:
    """Whether bits a byte of a text do not clear those of its token frequencies."""
    _, window = found[0]
    _, _, name = window.name.partition("_")
    key = f"unigram_{name}_bits_per_byte" if name else "unigram_bits_per_byte"
    lines = [record.figures[key] for record, _ in found if key in record.figures]
    bits = "heldout_bits_per_byte" in window.figures and cell.value is not None
    return bits and bool(lines) and (cell.high or cell.value or 0.0) >= min(lines)


def _smallest_told(group: Group, seen: Rows, title: str) -> list[str]:
    """Say the smallest change from the baseline that its items tell, as if the other's errors were independent."""
    base = group.baseline()
    of = seen.get(group.rows[base][0].trial.technique(), ()) if base is not None else ()
    for _, window in of:
        rise, loss = window.figures.get("smallest_detectable_rise_nats"), window.figures.get("heldout_nats_per_token")
        if rise is not None and loss:
            return [f"{title} {percent_text(rise / loss, 2)}"]
        drop = window.figures.get("smallest_detectable_drop_ratio")
        if drop is not None and math.isfinite(drop):
            return [f"{title} {significant(100 * drop, 2)} points"]
    return []


def _why_none(records: Sequence[Measurement], name: str) -> str:
    window = records[0].find(name)
    if window is None:
        return f"{name} is not in its record"
    return f"{window.outcome}: {window.reason}" if window.reason else window.outcome
