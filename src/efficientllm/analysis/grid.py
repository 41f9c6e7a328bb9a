"""Many points of one kind made readable: one row a technique at chosen points, and a grid of points a metric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from efficientllm.analysis import cells as cell_of
from efficientllm.analysis.catalogue import entry_of
from efficientllm.analysis.table import Cell, Column, Row, Section
from efficientllm.analysis.words import GRID, where
from efficientllm.records.measurement import Measurement

#: More points of one kind than this in a stage, and they stand in grids, not in a table each.
_MOST_APART = 3
#: Kind of window -> the metrics whose grids are shown; the first is also shown at a glance.
_METRICS = {
    "prefill": ("latency_median", "mfu", "energy_per_token"),
    "decode": ("latency_median", "mbu", "energy_per_token", "memory_mean"),
    "generate": ("tokens_per_s", "latency_median", "energy_per_token"),
}
#: At a glance also, from decode's largest point: what serving costs, and what is left of the model.
_AT_LARGEST = ("energy_per_token", "memory_mean", "compression_resident", "bits_per_byte")
_OF_THE_MODEL = ("weight_bytes", "disk_bytes", "cache_bytes_per_token")
_ENDED = {"oom": "out of memory"}

#: Stage and conditions of sections that stand together.
_Stage = tuple[object, ...]


def place(section: Section) -> tuple[str, dict[str, int]]:
    """Return which kind of window a section is about, and where.

    >>> place(Section(stage="", window="decode batch=1 tokens=64", columns=(), rows=()))
    ('decode', {'batch': 1, 'tokens': 64})
    """
    kind, *words = section.window.split()
    parts = (word.partition("=") for word in words)
    return kind, {key: int(value) for key, equals, value in parts if equals and value.isdigit()}


def gridded(sections: Sequence[Section]) -> tuple[Section, ...]:
    """Return the sections, those marked that are points of a grid and need no table of their own."""
    many = {(key, kind) for (key, kind), found in _kinds(sections).items() if len(found) > _MOST_APART}
    return tuple(replace(section, in_grid=(_key(section), place(section)[0]) in many) for section in sections)


def apart(sections: Sequence[Section]) -> list[Section]:
    """Return the sections that stand for all: those apart, and of each grid the smallest and the largest point."""
    ends = [section for found in _kinds(sections).values() for section in _ends(found)]
    return [section for section in sections if not section.in_grid or any(section is end for end in ends)]


def grids(sections: Sequence[Section], records: Sequence[Measurement]) -> tuple[Section, ...]:
    """Return for each stage with a grid its rows at a glance, then a grid for each metric that has figures."""
    by_stage: dict[_Stage, dict[str, list[Section]]] = {}
    for (key, kind), found in _kinds(sections).items():
        if kind in _METRICS:
            by_stage.setdefault(key, {})[kind] = found
    made: list[Section] = []
    for kinds in by_stage.values():
        if any(section.in_grid for found in kinds.values() for section in found):
            made.append(_glance(kinds, {record.id: record for record in records}))
            points = {kind: found for kind, found in kinds.items() if found[0].in_grid}
            tables = [_grid(kind, key, found) for kind, found in points.items() for key in _METRICS[kind]]
            made += [table for table in tables if table is not None]
    return tuple(made)


def _kinds(sections: Sequence[Section]) -> dict[tuple[_Stage, str], list[Section]]:
    """Return the sections of each kind in each stage, smallest point first."""
    kinds: dict[tuple[_Stage, str], list[Section]] = {}
    for section in sections:
        kind, coordinates = place(section)
        if kind in _METRICS and coordinates:
            kinds.setdefault((_key(section), kind), []).append(section)
    return kinds


def _key(section: Section) -> _Stage:
    return (section.stage, *section.conditions.items())


def _ends(found: Sequence[Section]) -> list[Section]:
    """Return the smallest and the largest point at which a row has figures; the baseline's, if it has any."""
    with_baseline = [s for s in found if any(row.baseline and row.cells for row in s.rows)]
    seen = with_baseline or [s for s in found if any(row.cells for row in s.rows)] or list(found)
    return [seen[0]] if seen[0] is seen[-1] else [seen[0], seen[-1]]


def _names(sections: Sequence[Section]) -> dict[str, bool]:
    """Return technique -> whether it is the baseline, in the order of the tables, which differ in what has failed."""
    found = {row.technique: row.baseline for section in sections for row in section.rows}
    return dict(sorted(found.items(), key=lambda one: not one[1]))


def _cell(section: Section, technique: str, key: str) -> Cell:
    row = next((row for row in section.rows if row.technique == technique), None)
    if row is None:
        return Cell(absent="not measured at this point")
    if not row.cells:
        return Cell(absent=_ENDED.get(row.outcome) or f"{row.outcome}: {row.reason}")
    return row.cells.get(key, Cell(absent="not in this section"))


def _grid(kind: str, key: str, found: Sequence[Section]) -> Section | None:
    """Return one metric's grid: points down, techniques across; None where no cell has a figure."""
    metric = next((column for column in found[0].columns if column.key == key), None)
    names = _names(found)
    rows = tuple(
        Row(technique=_point(section), cells={name: _cell(section, name, key) for name in names})
        for section in sorted(found, key=_batch_last)
    )
    if metric is None or all(cell.value is None for row in rows for cell in row.cells.values()):
        return None
    return Section(
        stage=found[0].stage,
        window=f"{GRID} {kind}: {metric.title} at each point",
        columns=tuple(
            replace(metric, key=name, title=f"{name} (baseline)" if baseline else name)
            for name, baseline in names.items()
        ),
        rows=rows,
        conditions=found[0].conditions,
        rows_are="point",
        minor=key != _METRICS[kind][0],
    )


def _batch_last(section: Section) -> tuple[int, ...]:
    """Return what puts batches beneath each other, under each prompt and output length."""
    coordinates = place(section)[1]
    return (*(value for key, value in sorted(coordinates.items()) if key != "batch"), coordinates.get("batch", 0))


def _point(section: Section) -> str:
    """Return a point as the first column of a grid names it: what follows the window's name."""
    return where(section.stage, section.window).partition(", ")[2]


def _glance(kinds: Mapping[str, Sequence[Section]], by_id: Mapping[str, Measurement]) -> Section:
    """Return a row a technique: each kind's first metric at its ends, costs at the largest point, the model's bytes."""
    chosen = [(section, _METRICS[kind][0]) for kind, found in kinds.items() for section in _ends(found)]
    largest = _ends(kinds.get("decode") or next(iter(kinds.values())))[-1]
    chosen += [(largest, key) for key in _AT_LARGEST]
    columns = [(_chosen_column(section, key), section, key) for section, key in chosen]
    shown = [one for one in columns if one[0] is not None]
    everywhere = [section for found in kinds.values() for section in found]
    rows = []
    for name, baseline in _names(everywhere).items():
        cells = {column.key: _cell(section, name, key) for column, section, key in shown if column is not None}
        of = [row for section in (largest, *everywhere) for row in section.rows if row.technique == name]
        best = next((row for row in of if row.cells), of[0])
        cells |= _counts(best, by_id) if best.cells else {}
        rows.append(replace(best, cells=cells if best.cells else {}, baseline=baseline, reason=_reason(best, of)))
    counted = tuple(entry.column for key in _OF_THE_MODEL if (entry := entry_of(key)) is not None)
    return Section(
        stage=largest.stage,
        window=f"{GRID} at a glance",
        columns=(*(column for column, _, _ in shown if column is not None), *counted),
        rows=tuple(rows),
        conditions=largest.conditions,
    )


def _chosen_column(section: Section, key: str) -> Column | None:
    """Return a column of a section with its point in its key and its heading."""
    column = next((column for column in section.columns if column.key == key), None)
    if column is None or key in ("compression_resident", "bits_per_byte"):
        return column
    coordinates = place(section)[1]
    point = "×".join(str(coordinates[name]) for name in ("batch", "tokens", "new_tokens") if name in coordinates)
    meaning = f"{column.meaning}; {where(section.stage, section.window)}"
    return replace(column, key=f"{key}@{section.window}", title=f"{column.title} {point}", meaning=meaning)


def _counts(row: Row, by_id: Mapping[str, Measurement]) -> dict[str, Cell]:
    """Return the bytes of a technique's model; they are the trial's, of whichever window."""
    records = [by_id[one] for one in row.measurements if one in by_id]
    seen = [(record, window) for record in records if (window := next(
        (window for window in record.windows if window.name in _METRICS), None)) is not None]  # fmt: skip
    entries = [entry for key in _OF_THE_MODEL if (entry := entry_of(key)) is not None]
    return {entry.column.key: cell_of.measure(entry, seen, {}) for entry in entries}


def _reason(best: Row, of: Sequence[Row]) -> str:
    """Say at how many points a technique gave no figure, and how they ended."""
    ended = [row.outcome for row in of[1:] if not row.cells]  # the first stands a second time further on
    if not best.cells or not ended:
        return best.reason
    said = ", ".join(f"{ended.count(word)} {_ENDED.get(word, word)}" for word in dict.fromkeys(ended))
    return f"{len(ended)} of {len(of) - 1} points gave no figure: {said}"
