"""The batch at which each technique stops helping against the baseline, where a study measures several batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from efficientllm.analysis.grid import place
from efficientllm.analysis.table import Cell, Column, Row, Section
from efficientllm.analysis.words import GRID, where
from efficientllm.stats.crossover import Crossover, crossover
from efficientllm.units import significant

#: Kind of window -> what a step of it is.
_TIMES = {"decode": "time of one further token", "generate": "time of a whole request"}
_LATENCY = "latency_median"
_TITLE = "the batch at which it stops helping"


def crossovers(sections: Sequence[Section]) -> tuple[Section, ...]:
    """Return a section for each stage with a baseline and a grid over batch: where time over the baseline's crosses 1.

    Columns are what the batch is varied under (decode with so many tokens in the cache), rows the techniques but for
    the baseline. A cell says it in words; its value is the batch where there is a single crossing.
    """
    made: dict[tuple[object, ...], list[tuple[str, dict[str, Cell]]]] = {}
    shared: dict[tuple[object, ...], Section] = {}
    for lines in _lines(sections).values():
        cells = _cells(lines)
        if cells:
            first = next(iter(lines.values()))
            stage = (first.stage, *first.conditions.items())
            kind, coordinates = place(first)
            rest = " ".join(f"{key}={value}" for key, value in coordinates.items() if key != "batch")
            shared.setdefault(stage, first)
            made.setdefault(stage, []).append((f"{kind} {rest}".strip(), cells))
    return tuple(_section(shared[stage], columns) for stage, columns in made.items())


def crossover_sentences(found: Sequence[Section]) -> list[str]:
    """Say of each stage's first column where techniques stop helping; the others stand in the table."""
    said = []
    for section in found:
        column = section.columns[0]
        clauses = [f"{row.technique} {cell.text}" for row in section.rows if (cell := row.cells[column.key]).text]
        if clauses:
            said.append(f"Batch at which a technique stops helping, {column.title}: {'; '.join(clauses[:4])}.")
    return said


def _lines(sections: Sequence[Section]) -> dict[tuple[object, ...], dict[int, Section]]:
    """Return, for each run of windows that differ in their batch alone, batch -> section."""
    lines: dict[tuple[object, ...], dict[int, Section]] = {}
    for section in sections:
        kind, coordinates = place(section)
        if kind in _TIMES and "batch" in coordinates:
            rest = tuple((key, value) for key, value in coordinates.items() if key != "batch")
            line = (section.stage, *section.conditions.items(), kind, *rest)
            lines.setdefault(line, {})[coordinates["batch"]] = section
    return {line: dict(sorted(found.items())) for line, found in lines.items() if len(found) > 1}


def _cells(line: Mapping[int, Section]) -> dict[str, Cell]:
    """Return technique -> its cell; none without a baseline, or where none has two batches beside it."""
    rows = [row for section in line.values() for row in section.rows]
    baseline = next((row.technique for row in rows if row.baseline), None)
    names = dict.fromkeys(row.technique for row in rows if not row.baseline)
    if baseline is None:
        return {}
    cells = {name: _cell(_ratios(line, name, baseline)) for name in names}
    return cells if any(cell.text for cell in cells.values()) else {}


def _ratios(line: Mapping[int, Section], technique: str, baseline: str) -> dict[int, dict[int, float]]:
    """Return batch -> round -> time over the baseline's, for batches that both have."""
    found = {}
    for batch, section in line.items():
        times = {row.technique: row.cells[_LATENCY].values for row in section.rows if _LATENCY in row.cells}
        own, other = times.get(technique, {}), times.get(baseline, {})
        ratios = {repeat: own[repeat] / other[repeat] for repeat in own if other.get(repeat)}
        if ratios:
            found[batch] = ratios
    return found


def _cell(ratios: Mapping[int, Mapping[int, float]]) -> Cell:
    found = crossover(ratios)
    if found is None:
        return Cell(absent="fewer than two batches were measured with it and the baseline in the same repeat")
    return Cell(value=found.batch, low=found.low, high=found.high, text=sentence(found))


def sentence(found: Crossover) -> str:
    """Say what was found.

    >>> sentence(crossover({16: {0: 0.5}, 64: {0: 2.0}}))
    'between 16 and 64: 32 (1 repeat: no interval)'
    >>> sentence(crossover({1: {0: 0.5}, 256: {0: 0.9}})), sentence(crossover({1: {0: 1.5}, 8: {0: 1.1}}))
    ('helps at every measured batch (1 to 256)', 'never (1 to 8)')
    """
    ends = f"{found.measured[0]} to {found.measured[-1]}"
    unsure = f"; cannot tell at {_listed(found.unsure)}" if found.unsure else ""
    if found.unsure == found.measured:
        return f"cannot tell at any measured batch ({ends})"
    if found.kind == "always":
        return f"helps at every measured batch ({ends}{unsure})"
    if found.kind == "never":
        return f"never ({ends}{unsure})"
    if found.kind == "mixed":
        return f"no single one: helps at {_listed(found.helps)} of {_listed(found.measured)}{unsure}"
    assert found.batch is not None and found.between is not None
    begins = "" if found.kind == "stops" else "helps only above, "
    low, high = found.between
    return f"{begins}between {low} and {high}: {significant(found.batch, 2)} ({_interval(found)})"


def _interval(found: Crossover) -> str:
    if found.n < 3:
        return f"{found.n} repeat{'s' * (found.n > 1)}: no interval"
    low = "below what was measured" if found.low is None else significant(found.low, 2)
    high = "beyond what was measured" if found.high is None else significant(found.high, 2)
    return f"{low} to {high}"


def _listed(batches: Sequence[int]) -> str:
    return ", ".join(map(str, batches))


def _section(like: Section, columns: Sequence[tuple[str, dict[str, Cell]]]) -> Section:
    names = dict.fromkeys(name for _, cells in columns for name in cells)
    absent = Cell(absent="not measured here")
    return Section(
        stage=like.stage,
        window=f"{GRID} {_TITLE}",
        columns=tuple(
            Column(
                key=window,
                title=where(like.stage, window),
                unit="sequences",
                meaning=f"batch at which the {_TIMES[window.partition(' ')[0]]} over the baseline's crosses 1",
            )
            for window, _ in columns
        ),
        rows=tuple(
            Row(technique=name, cells={window: cells.get(name, absent) for window, cells in columns}) for name in names
        ),
        conditions=like.conditions,
    )
