"""How the order of techniques changes once each has a setting of its own: a stage with choices beside one without."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from efficientllm.analysis import floor
from efficientllm.analysis.table import Cell, Column, Row, Section
from efficientllm.analysis.words import AGAINST
from efficientllm.records.measurement import Measurement
from efficientllm.stats.interval import process_interval

_QUALITY = "bits_per_byte"
_FLOORED = "at its floor"
_MOST_KEPT = 4


def rank_changes(sections: Sequence[Section], records: Sequence[Measurement]) -> tuple[Section, ...]:
    """Return a section for each stage whose setting was chosen and each stage that measured the same without.

    Its cells are those of the two sections, with their intervals and ranks, and what the choice brought; the best of
    the chosen stage comes first.
    """
    return tuple(_beside(one, other, records) for one, other in _pairs(sections, records))


def rank_change_lines(sections: Sequence[Section], records: Sequence[Measurement]) -> tuple[str, ...]:
    """Return a line for each such pair of stages: whose place is another one, and whose is not.

    >>> from efficientllm.analysis.table import Cell
    >>> def section(stage, **bits):
    ...     rows = tuple(Row(technique=name, cells={_QUALITY: Cell(value=value)}) for name, value in bits.items())
    ...     return Section(stage=stage, window="train", columns=(), rows=rows)
    >>> _line(section("common", full=1.0, lora=2.0, ia3=3.0), section("tuned", full=0.9, lora=0.8, ia3=2.9), [])
    'tuned against common, places by bits/byte (too few repeats to tell ties): lora 2 → 1, full 1 → 2; as before: ia3 3'
    """
    return tuple(_line(one, other, records) for one, other in _pairs(sections, records))


def _pairs(sections: Sequence[Section], records: Sequence[Measurement]) -> list[tuple[Section, Section]]:
    """Return the pairs of sections with figures for the same techniques: without a choice, and after one."""
    chosen = {record.trial.stage for record in records if record.trial.selected is not None}
    tried = {record.trial.selected.stage for record in records if record.trial.selected is not None}
    trained = [
        section
        for section in sections
        if section.window == "train" and any(_value(row) is not None for row in section.rows)
    ]
    plain = [section for section in trained if section.stage not in chosen | tried]
    return [(one, other) for other in trained if other.stage in chosen for one in plain if _alike(one, other)]


def _alike(one: Section, other: Section) -> bool:
    """Whether two sections hold the same techniques under the same conditions."""
    names = [{row.technique for row in section.rows} for section in (one, other)]
    keys = ("workload", "model", "corpus", "instructions", "base precision", "dtype", "tokens", "device", "machine")
    return names[0] == names[1] and all(one.conditions.get(key) == other.conditions.get(key) for key in keys)


def _beside(one: Section, other: Section, records: Sequence[Measurement]) -> Section:
    plain, over = {row.technique: row for row in one.rows}, other.conditions
    rates = _chosen_values(other.stage, records)
    columns = [
        Column(key=f"{_QUALITY}_{one.stage}", title=f"Bits/byte, {one.stage}", unit="bits/byte", better="low"),
        Column(key=f"{_QUALITY}_{other.stage}", title=f"Bits/byte, {other.stage}", unit="bits/byte", better="low"),
        Column(key="tuning_gain", title=f"{other.stage} ÷ {one.stage}", unit="factor", better="low"),
    ]
    if rates:
        columns.append(Column(key="chosen", title=f"Chosen {_over(other.stage, records)}", unit="setting"))
    rows = []
    for row in sorted(other.rows, key=_by_value):
        before, after = plain[row.technique].cells.get(_QUALITY), row.cells.get(_QUALITY)
        absent = Cell(absent=row.reason or plain[row.technique].reason or "not measured in both stages")
        cells = [before or absent, after or absent, _ratio(before, after)]
        cells += [_chosen(rates.get(row.technique, {}))] if rates else []
        keyed = {column.key: cell for column, cell in zip(columns, cells, strict=True)}
        rows.append(Row(technique=row.technique, baseline=row.baseline, cells=keyed))
    conditions = {key: value for key, value in over.items() if key != "protocol"}
    return Section(
        stage=other.stage,
        window=f"{AGAINST} {one.stage}",
        columns=tuple(columns),
        rows=tuple(rows),
        conditions=conditions,
    )


def _ratio(before: Cell | None, after: Cell | None) -> Cell:
    """Return what the choice brought, paired by repeat."""
    if before is None or after is None or before.value is None or after.value is None:
        return Cell(absent="not measured in both stages")
    both = [repeat for repeat in after.values if repeat in before.values]
    values = {repeat: after.values[repeat] / before.values[repeat] for repeat in both if before.values[repeat]}
    if not values:
        return Cell(absent="no repeat in common")
    found = process_interval(list(values.values()))
    return Cell(
        value=found.estimate, low=found.low, high=found.high, why_no_interval=found.why_no_interval, values=values
    )


def _over(stage: str, records: Sequence[Measurement]) -> str:
    over = next(r.trial.selected.over for r in records if r.trial.stage == stage and r.trial.selected is not None)
    return over.replace("_", " ")


def _chosen_values(stage: str, records: Sequence[Measurement]) -> dict[str, dict[int, float]]:
    """Return technique -> repeat -> what was chosen, where it is a number."""
    found: dict[str, dict[int, float]] = {}
    for record in records:
        if record.trial.stage == stage and record.trial.selected is not None:
            try:
                value = float(record.trial.selected.value)
            except ValueError:
                continue
            found.setdefault(record.trial.technique(), {})[record.trial.repeat] = value
    return found


def _chosen(values: dict[int, float]) -> Cell:
    if not values:
        return Cell(absent="nothing was chosen")
    return Cell(value=next(iter(values.values())), values=values)


def _line(one: Section, other: Section, records: Sequence[Measurement]) -> str:
    before, after = _places(one, records), _places(other, records)
    moved = [f"{name} {before[name]} → {place}" for name, place in after.items() if before.get(name, place) != place]
    kept = [f"{name} {place}" for name, place in after.items() if before.get(name) == place != _FLOORED]
    floored = [name for name, place in after.items() if before.get(name) == place == _FLOORED]
    said = [", ".join(moved)] if moved else ["no place changes"]
    said += [f"as before: {_some(kept)}"] if kept else []
    said += [f"{_FLOORED} in both: {_some(floored)}"] if floored else []
    ties = "" if _ranked(one, before) and _ranked(other, after) else " (too few repeats to tell ties)"
    return f"{other.stage} against {one.stage}, places by bits/byte{ties}: {'; '.join(said)}"


def _some(names: Sequence[str]) -> str:
    rest = f" and {len(names) - _MOST_KEPT} more" if len(names) > _MOST_KEPT else ""
    return f"{', '.join(names[:_MOST_KEPT])}{rest}"


def _ranked(section: Section, places: Mapping[str, str]) -> bool:
    """Whether a section's places are ranks, which a single row needs no repeats for."""
    placed = [row for row in section.rows if places.get(row.technique, _FLOORED) != _FLOORED]
    return len(placed) < 2 or any(row.cells[_QUALITY].rank for row in placed)


def _places(section: Section, records: Sequence[Measurement]) -> dict[str, str]:
    """Return technique -> its rank, else its place by the figure alone; the best first.

    What does not clear its floor has no place.
    """
    places, count = {}, 0
    for row in sorted((row for row in section.rows if _value(row) is not None), key=_by_value):
        cell = row.cells[_QUALITY]
        of = [r for r in records if r.trial.stage == section.stage and r.trial.technique() == row.technique]
        if floor.at_floor(cell, of):
            places[row.technique] = _FLOORED
            continue
        count += 1
        places[row.technique] = f"{'=' if cell.tied else ''}{cell.rank}" if cell.rank else str(count)
    return places


def _value(row: Row) -> float | None:
    cell = row.cells.get(_QUALITY)
    return None if cell is None else cell.value


def _by_value(row: Row) -> float:
    value = _value(row)
    return float("inf") if value is None else value
