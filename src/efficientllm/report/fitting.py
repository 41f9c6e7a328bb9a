"""What fits on a page: all rows with all metrics where it can, else the front first, and the page says what is missing.

Sizes are bytes of the page's data; a study of 10,000 measurements stays under 6 MB.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from efficientllm.analysis.table import Cell, Section
from efficientllm.records.measurement import Measurement

#: For all cells of all tables, and for those among them that are no headline.
_MOST_BYTES, _MOST_DETAIL_BYTES = 3_400_000, 1_300_000
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


def fitted(sections: Sequence[Section]) -> list[Section]:
    """Return the sections, of a very large study with fewer rows: the baseline and the front go before the others."""
    size = sum(_bytes(row.cells) for section in sections for row in section.rows)
    share = min(1.0, _MOST_BYTES / size) if size else 1.0
    return [cut(section, max(_LEAST_ROWS, int(share * len(section.rows)))) for section in sections]


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
    left_out = {key: Cell(absent=LEFT_OUT) for key in others}
    rows = (
        replace(row, cells={**(known.get(row.technique) or left_out), **row.cells}) if row.cells else row
        for row in section.rows
    )
    return replace(section, columns=full.columns, rows=tuple(rows))


def _bytes(cells: Mapping[str, Cell]) -> int:
    return sum(_CELL_BYTES + _VALUE_BYTES * len(cell.values) for cell in cells.values())
