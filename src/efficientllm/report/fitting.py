"""What fits on a page: all rows with all metrics where it can, else the front first, and the page says what is missing.

Sizes are bytes of the page's data. 10,000 measurements are to fit into 6 MB: their tables into half of that, since
records, curves and charts need theirs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from efficientllm.analysis.table import Cell, Row, Section
from efficientllm.records.measurement import Measurement

#: For the headlines of all tables, and for the metrics beside them.
_MOST_BYTES, _MOST_DETAIL_BYTES = 2_400_000, 600_000
#: About how many metrics a section has beside its headlines.
_OTHER_METRICS = 20
#: A cell without its values by repeat, and each of these.
_CELL_BYTES, _VALUE_BYTES = 62, 9
#: No table is cut below this.
_LEAST_ROWS = 40
#: Said of a metric that a large page leaves out.
LEFT_OUT = "this page is too large for all metrics of all rows; `efficientllm query` has it"

#: What a section is, whichever columns it has.
Place = tuple[str, str, tuple[tuple[str, str], ...]]


def fitted(sections: Sequence[Section], keep: Sequence[str]) -> list[Section]:
    """Return the sections, of a very large study without values by repeat, and then with fewer rows.

    The raw records have the values. The baseline and the front go before the other rows.

    Args:
        sections: with their headline metrics.
        keep: techniques that keep their values: those from `detailed`.
    """
    if _size(sections) <= _MOST_BYTES:
        return list(sections)
    kept = set(keep)
    lighter = [
        replace(section, rows=tuple(row if row.technique in kept else _without_values(row) for row in section.rows))
        for section in sections
    ]
    share = min(1.0, _MOST_BYTES / _size(lighter))
    return [cut(section, max(_LEAST_ROWS, int(share * len(section.rows)))) for section in lighter]


def _without_values(row: Row) -> Row:
    return replace(row, cells={key: replace(cell, values={}) for key, cell in row.cells.items()})


def _size(sections: Sequence[Section]) -> int:
    return sum(_bytes(row.cells) for section in sections for row in section.rows)


def cut(section: Section, most: int) -> Section:
    """Return a section of at most so many rows, in their order: the baseline and the front before the others."""
    if len(section.rows) <= most:
        return section
    kept = {id(row) for row in sorted(section.rows, key=lambda row: not (row.baseline or row.on_front))[:most]}
    return replace(section, rows=tuple(row for row in section.rows if id(row) in kept))


def detailed(sections: Sequence[Section]) -> list[str]:
    """Return the techniques for whom all metrics fit: baselines and fronts first."""
    weights: dict[str, int] = {}
    for section in sections:
        for row in sorted(section.rows, key=lambda row: not (row.baseline or row.on_front)):
            each = _bytes(row.cells) // max(1, len(row.cells))
            weights[row.technique] = weights.get(row.technique, 0) + each * _OTHER_METRICS
    chosen, room = list[str](), _MOST_DETAIL_BYTES
    for name, weight in weights.items():
        room -= weight
        if room < 0 and chosen:
            break
        chosen.append(name)
    return chosen


def merged(sections: Sequence[Section], full: Sequence[Section]) -> list[Section]:
    """Return the sections with every metric: headline cells as they are, the others of the rows that have them."""
    by_place = {place_of(section): section for section in full}
    return [_merged(section, by_place.get(place_of(section))) for section in sections]


def only(sections: Sequence[Section], names: Sequence[str]) -> list[Section]:
    """Return the sections with the rows of these techniques."""
    wanted = set(names)
    return [replace(one, rows=tuple(row for row in one.rows if row.technique in wanted)) for one in sections]


def place_of(section: Section) -> Place:
    """Return what tells a section from its siblings, whichever columns it has."""
    return section.stage, section.window, tuple(section.conditions.items())


def of_techniques(measurements: Sequence[Measurement], names: Sequence[str]) -> list[Measurement]:
    """Return the records of these techniques."""
    wanted = set(names)
    return [record for record in measurements if record.trial.technique() in wanted]


def _merged(section: Section, full: Section | None) -> Section:
    if full is None:
        return section
    known = {row.technique: row.cells for row in full.rows}
    headline = {column.key for column in section.columns}
    others = [column.key for column in full.columns if column.key not in headline]
    left_out = dict.fromkeys(others, Cell(absent=LEFT_OUT))
    rows = (
        replace(row, cells={**(known.get(row.technique) or left_out), **row.cells}) if row.cells else row
        for row in section.rows
    )
    return replace(section, columns=full.columns, rows=tuple(rows))


def _bytes(cells: Mapping[str, Cell]) -> int:
    return sum(_CELL_BYTES + _VALUE_BYTES * len(cell.values) for cell in cells.values())
