"""How the order of techniques changes once each has a setting of its own: a stage with choices beside one without."""

from __future__ import annotations

from collections.abc import Sequence

from efficientllm.analysis.table import Row, Section
from efficientllm.records.measurement import Measurement
from efficientllm.units import significant

_QUALITY = "bits_per_byte"


def rank_change_lines(sections: Sequence[Section], records: Sequence[Measurement]) -> tuple[str, ...]:
    """Return a line for each stage whose setting was chosen and each stage that measured the same techniques without.

    >>> from efficientllm.analysis.table import Cell
    >>> def section(stage, **bits):
    ...     rows = tuple(Row(technique=name, cells={_QUALITY: Cell(value=value)}) for name, value in bits.items())
    ...     return Section(stage=stage, window="train", columns=(), rows=rows)
    >>> _line(section("common", full=1.0, lora=2.0), section("tuned", full=0.9, lora=0.8))
    'tuned against common, by bits/byte: lora 2.00 → 0.800 (place 2 → 1); full 1.00 → 0.900 (place 1 → 2)'
    """
    chosen = {record.trial.stage for record in records if record.trial.selected is not None}
    tried = {record.trial.selected.stage for record in records if record.trial.selected is not None}
    trained = [section for section in sections if section.window == "train"]
    plain = [section for section in trained if section.stage not in chosen | tried]
    lines = [_line(one, other) for other in trained if other.stage in chosen for one in plain if _alike(one, other)]
    return tuple(line for line in lines if line)


def _alike(one: Section, other: Section) -> bool:
    """Whether two sections hold the same techniques under the same conditions."""
    names = [{row.technique for row in section.rows} for section in (one, other)]
    keys = ("workload", "model", "instructions", "tokens", "device", "machine")
    return names[0] == names[1] and all(one.conditions.get(key) == other.conditions.get(key) for key in keys)


def _line(one: Section, other: Section) -> str:
    before, after = _places(one), _places(other)
    said = [
        f"{name} {significant(before[name][1])} → {significant(value)} (place {before[name][0]} → {place})"
        for name, (place, value) in after.items()
        if name in before
    ]
    return f"{other.stage} against {one.stage}, by bits/byte: {'; '.join(said)}" if said else ""


def _places(section: Section) -> dict[str, tuple[int, float]]:
    """Return technique -> place by quality and the figure, the best first."""
    known = [(value, row.technique) for row in section.rows if (value := _value(row)) is not None]
    return {name: (place, value) for place, (value, name) in enumerate(sorted(known), start=1)}


def _value(row: Row) -> float | None:
    cell = row.cells.get(_QUALITY)
    return None if cell is None else cell.value
