"""What fits on a page: all rows with all metrics where it can, else the front first, and the page says what is missing.

Sizes are bytes of the page's data. 10,000 measurements are to fit into 6 MB: their tables into half of that, since
records, curves and charts need theirs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from dataclasses import replace as replaced
from itertools import islice, zip_longest

from msgspec.structs import replace

from efficientllm.analysis.table import Cell, Row, Section

#: For the headlines of all tables, and for the metrics beside them.
_MOST_BYTES, _MOST_DETAIL_BYTES = 2_400_000, 600_000
#: Sections that get metrics beside their headlines.
_MOST_SECTIONS = 24
#: About how many metrics a section has beside its headlines.
_OTHER_METRICS = 20
#: A cell without its values by repeat, and each of these.
_CELL_BYTES, _VALUE_BYTES = 62, 9
#: No table is cut below this.
_LEAST_ROWS = 40
#: Said of a metric that a large page leaves out.
LEFT_OUT = "this page is too large for all metrics of all rows; `efficientllm query` has it"


@dataclass(frozen=True)
class Fit:
    """What has to go so that all tables of a page fit.

    Attributes:
        share: of the rows of each table that stays.
        keep: records whose rows keep their values by repeat; None: all rows do.
    """

    share: float = 1.0
    keep: Set[str] | None = None

    def of(self, section: Section) -> Section:
        """Return a section as the page has it: the baseline and the front go before the other rows."""
        rows = section.rows
        if self.keep is not None:
            rows = tuple(row if self.keep & set(row.measurements) else _without_values(row) for row in rows)
        return cut(replace(section, rows=rows), max(_LEAST_ROWS, int(self.share * len(rows))))


def fit(sections: Sequence[Section], keep: Set[str]) -> Fit:
    """Return what has to go: nothing where all fits, else values by repeat, and then rows. The raw records have all.

    Args:
        sections: all tables of the page, with their headline metrics.
        keep: ids of the records whose rows keep their values: those from `detailed`.
    """
    if _size(sections) <= _MOST_BYTES:
        return Fit()
    lighter = Fit(keep=keep)
    return replaced(lighter, share=min(1.0, _MOST_BYTES / _size([lighter.of(section) for section in sections])))


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


def detailed(sections: Sequence[Section]) -> tuple[list[str], set[str]]:
    """Return the techniques for whom all metrics fit, baselines and fronts first, and their records.

    Of very many sections some of each stage and kind of window.
    """
    sections = _spread(sections)
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
    found = {id_ for one in only(sections, chosen) for row in one.rows for id_ in row.measurements}
    return chosen, found


def _spread(sections: Sequence[Section]) -> list[Section]:
    """Return the sections, of more than a page can detail the first of each stage and kind of window in turn."""
    if len(sections) <= _MOST_SECTIONS:
        return list(sections)
    kinds: dict[tuple[str, str], list[Section]] = {}
    for section in sections:
        kinds.setdefault((section.stage, section.window.partition(" ")[0]), []).append(section)
    turns = (section for turn in zip_longest(*kinds.values()) for section in turn if section is not None)
    return list(islice(turns, _MOST_SECTIONS))


def merged(sections: Sequence[Section], full: Sequence[Section]) -> list[Section]:
    """Return the sections with every metric: headline cells as they are, the others of the rows that have them.

    Sections belong together by window and records: conditions as a heading says them may be those of others too.
    """
    by_record = {(one.window, id_): one for one in full for row in one.rows for id_ in row.measurements}
    found = []
    for section in sections:
        keys = ((section.window, id_) for row in section.rows for id_ in row.measurements)
        found.append(_merged(section, next((by_record[key] for key in keys if key in by_record), None)))
    return found


def only(sections: Sequence[Section], names: Sequence[str]) -> list[Section]:
    """Return the sections with the rows of these techniques."""
    wanted = set(names)
    return [replace(one, rows=tuple(row for row in one.rows if row.technique in wanted)) for one in sections]


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
