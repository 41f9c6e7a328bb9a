"""The verdict in words: a few sentences that name figures, and say where nothing can be told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from efficientllm.analysis.catalogue import group_of
from efficientllm.analysis.crossover import crossover_sentences
from efficientllm.analysis.metrics._contract import GROUPS
from efficientllm.analysis.table import Column, Row, Section, StudyTable
from efficientllm.analysis.words import capital, where
from efficientllm.stats.paired import FEWEST_ROUNDS
from efficientllm.units import percent_text, significant

_MOST = 6
_MOST_SECTIONS = 3
#: How a smaller and a larger figure of each kind is said; what a verdict does not speak of follows from these.
_WORDS = {
    "latency": ("less time", "more time"),
    "memory": ("less memory", "more memory"),
    "energy": ("less energy a token", "more energy a token"),
    "quality": ("fewer bits/byte", "more bits/byte"),
}
_ENDED = {
    "oom": "ran out of memory",
    "unsupported": "is not supported",
    "diverged": "diverged",
    "crashed": "crashed",
    "invalid": "gave impossible figures",
    "interrupted": "was interrupted",
}


def sentences(table: StudyTable) -> tuple[str, ...]:
    """Return the verdict of a table, most important first, at most six sentences."""
    chosen = _chosen(table.sections)
    codes = {caution.code: caution.text for caution in table.cautions}
    said = [f"Nothing is ranked: {codes['not_ranked']}."] if "not_ranked" in codes else []
    said += _comparisons(chosen) if "not_ranked" not in codes else []
    said += crossover_sentences(table.crossovers) if "not_ranked" not in codes else []
    said += _overall(chosen, "implementation_bound" in codes)
    if "at_floor" in codes:
        said.append(
            "Quality does not clear its floor for some rows (see at_floor): train on more tokens, or at another rate."
        )
    said += _failures(table.sections)
    said += _absences(chosen)
    if not said:
        said = ["There is nothing to compare in this study." if table.sections else "Nothing was measured yet."]
    return tuple(said[:_MOST])


def _chosen(sections: Sequence[Section]) -> list[Section]:
    """Return the sections to speak of: of each kind of window the last (largest) in which the baseline has figures."""
    kinds: dict[tuple[str, str], Section] = {}
    for section in sections:
        kind = (section.stage, section.window.partition(" ")[0])
        if any(row.cells and row.baseline for row in section.rows):
            kinds[kind] = section
        elif any(row.cells for row in section.rows):
            kinds.setdefault(kind, section)
    return list(kinds.values())[:_MOST_SECTIONS]


#: So many rows that ended alike are named in the verdict.
_MOST_NAMED = 4


def _comparisons(sections: Sequence[Section]) -> list[str]:
    """Return a sentence for each section, or a single one where there are too few repeats to compare anything."""
    rounds = max((_rounds(section) for section in sections), default=0)
    if 0 < rounds < FEWEST_ROUNDS:
        return [f"{_repeats(rounds)} cannot tell any difference: measure {FEWEST_ROUNDS} at least."]
    return [text for section in sections if (text := _section_sentence(section))]


def _repeats(rounds: int) -> str:
    return f"{rounds} repeat" if rounds == 1 else f"{rounds} repeats"


def _rounds(section: Section) -> int:
    """Return how many repeats the best measured cell of a section has."""
    return max((len(cell.values) for row in section.rows for cell in row.cells.values()), default=0)


def _section_sentence(section: Section) -> str:
    baseline = next((row for row in section.rows if row.baseline and row.cells), None)
    if baseline is None:
        return _without_baseline(section)
    others = [row for row in section.rows if row.cells and not row.baseline]
    if not others:
        return ""
    parts = [text for row in _fastest_first(section, others) if (text := _row_clause(section, row))]
    place = capital(where(section.stage, section.window))
    if parts:
        return f"{place}, against {baseline.technique}: {'; '.join(parts[:3])}."
    rounds = _rounds(section)
    names = ", ".join(row.technique for row in others)
    return f"{place}: {_repeats(rounds)} cannot tell {names} from {baseline.technique}."


def _fastest_first(section: Section, rows: Sequence[Row]) -> list[Row]:
    """Return the rows by their time over the baseline's."""
    latency = _column(section, "latency")

    def speed(row: Row) -> float:
        cell = row.cells.get(latency.key) if latency else None
        return cell.ratio if cell and cell.ratio is not None else 1.0

    return sorted(rows, key=speed)


def _row_clause(section: Section, row: Row) -> str:
    """Say how one row differs: `mqa has 29 % less time and 4 % less memory, at 3 % more bits/byte`."""
    gains: list[str] = []
    costs: list[str] = []
    unknown: list[str] = []
    for group in _WORDS:
        column = _column(section, group)
        cell = row.cells.get(column.key) if column else None
        if cell is not None and cell.verdict == "unresolved":
            unknown.append("time" if group == "latency" else group)
        elif cell is not None and cell.ratio is not None and cell.verdict in ("better", "worse"):
            (gains if cell.verdict == "better" else costs).append(_difference(group, cell.ratio))
    if not gains and not costs:
        return ""
    told = " at ".join(", ".join(part) for part in (gains, costs) if part)
    cannot = f" (cannot tell: {', '.join(unknown)})" if unknown else ""
    return f"{row.technique} {told}{cannot}"


def _difference(group: str, ratio: float) -> str:
    less, more = _WORDS[group]
    if ratio > 2:
        return f"{significant(ratio, 2)}× the {more.partition(' ')[2]}"
    return f"{percent_text(abs(ratio - 1), 2)} {less if ratio < 1 else more}"


def _without_baseline(section: Section) -> str:
    """Without a baseline, say who is first and by which metric."""
    latency = _column(section, "latency")
    firsts = [row for row in section.rows if latency and (cell := row.cells.get(latency.key)) and cell.rank == 1]
    if not firsts:
        return ""
    names = ", ".join(row.technique for row in firsts)
    tie = " (no difference between them can be told)" if len(firsts) > 1 else ""
    return f"{capital(where(section.stage, section.window))}: {names} first by time{tie}."


def _overall(sections: Sequence[Section], implementations: bool) -> list[str]:
    """Say whether one technique is first, alone or not, on everything that was ranked."""
    firsts = [names for section in sections for column in section.columns if (names := _first(section, column))]
    if len(firsts) < 2:
        return []
    always = set.intersection(*firsts)
    if always:
        here = ", as implemented here" if implementations else ""
        return [f"{' and '.join(sorted(always))}: beaten by none on any metric that parts the rows{here}."]
    who = "None of these implementations" if implementations else "No technique"
    return [f"{who} is first on everything that was measured: choose by what you are short of."]


def _first(section: Section, column: Column) -> set[str]:
    """Return the rows of rank 1, or none where the ranking parts no rows."""
    ranks = {row.technique: cell.rank for row in section.rows if (cell := row.cells.get(column.key)) and cell.rank}
    first = {name for name, rank in ranks.items() if rank == 1}
    return first if len(first) < len(ranks) else set()


def _failures(sections: Sequence[Section]) -> list[str]:
    """Say in one sentence what ended otherwise, and where; many that ended alike are counted, not named."""
    failed: dict[str, dict[str, list[str]]] = {}
    for section in sections:
        for row in section.rows:
            if row.outcome in _ENDED:
                places = failed.setdefault(_ENDED[row.outcome], {}).setdefault(row.technique, [])
                places.append(where(section.stage, section.window))
    said = [text for ended, rows in failed.items() for text in _ended_alike(ended, rows)]
    return [f"{'; '.join(said)}."] if said else []


def _ended_alike(ended: str, rows: Mapping[str, Sequence[str]]) -> list[str]:
    """Return a clause for each row, or one for all of them where they are too many to read."""
    if len(rows) <= _MOST_NAMED:
        return [f"{name} {ended} in {' and '.join(dict.fromkeys(places))}" for name, places in rows.items()]
    places = dict.fromkeys(place for of_row in rows.values() for place in of_row)
    return [f"{len(rows)} rows {_plural(ended)} in {' and '.join(places)} (the tables' ends say why)"]


def _plural(ended: str) -> str:
    """Say of several rows what is said of one.

    >>> _plural("is not supported"), _plural("ran out of memory")
    ('are not supported', 'ran out of memory')
    """
    first, _, rest = ended.partition(" ")
    return f"{ {'is': 'are', 'was': 'were'}.get(first, first) } {rest}".rstrip()


def _absences(sections: Sequence[Section]) -> list[str]:
    """Name the metrics that no row has, with the commonest reason."""
    said: dict[str, str] = {}
    for group in GROUPS:
        cells = [cell for section in sections if (column := _column(section, group))
                 for row in section.rows if (cell := row.cells.get(column.key))]  # fmt: skip
        if cells and all(cell.value is None for cell in cells) and not cells[0].absent.startswith("at_floor"):
            said[group] = cells[0].absent
    return [f"Not measured: {', '.join(f'{group} ({reason})' for group, reason in said.items())}."] if said else []


def _column(section: Section, group: str) -> Column | None:
    return next((column for column in section.columns if group_of(column.key) == group), None)
