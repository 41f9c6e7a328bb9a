"""One leaderboard across submissions: the same workload, shape, data and protocol, on whatever machine.

Nothing is paired across machines: a row's verdict is the one that it has in its own submission, against the baseline
that ran beside it, and rows stand in the order of their value, device by device.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence

import msgspec

from efficientllm.analysis.comparable import key_across_machines
from efficientllm.analysis.group import Group, Point, groups, points
from efficientllm.analysis.section import is_ranked, section
from efficientllm.analysis.select import counts, select
from efficientllm.analysis.table import Column, Row, Section
from efficientllm.records.measurement import Measurement

#: Conditions that a board's rows do not share: they stand in the rows.
_OF_A_MACHINE = ("device", "machine")


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One technique of one submission on one machine."""

    submission: str
    device: str
    machine: str
    software: str
    row: Row


class Board(msgspec.Struct, frozen=True, kw_only=True):
    """Entries that measured the same thing, by device and then by the first time that is told, the fastest first."""

    stage: str
    window: str
    conditions: dict[str, str]
    columns: tuple[Column, ...]
    entries: tuple[Entry, ...]

    def submissions(self) -> tuple[str, ...]:
        """Return whose rows stand here."""
        return tuple(dict.fromkeys(entry.submission for entry in self.entries))


def boards(submissions: Mapping[str, Sequence[Measurement]]) -> list[Board]:
    """Return the boards of some submissions, those with most submissions first, then in the order of their stages.

    Args:
        submissions: name -> its measurements. What was measured with a protocol that is never ranked is left out.
    """
    found: dict[tuple[Hashable, object, Point], Board] = {}
    for name, measurements in submissions.items():
        for group in groups(select(measurements).records):
            if is_ranked(group):
                for point in points(group):
                    key = (_key(group), group.split, point)
                    made = _board(name, group, section(group, point)[0])
                    before = found.get(key)
                    entries = (*before.entries, *made.entries) if before else made.entries
                    if entries:
                        found[key] = msgspec.structs.replace(before or made, entries=entries)
    ordered = [msgspec.structs.replace(one, entries=_ordered(one)) for one in found.values()]
    return sorted(ordered, key=lambda board: -len(board.submissions()))


def _key(group: Group) -> Hashable:
    """Return what all of a group's records share, from one that read its text, if any did."""
    records = group.records()
    return key_across_machines(next((record for record in records if record.data is not None), records[0]))


def _board(submission: str, group: Group, made: Section) -> Board:
    record = next((r for r in group.records() if counts(r)), group.records()[0])
    environment = record.environment
    versions = [f"{name} {version}" for name, version in environment.libraries.items() if name == "torch"]
    entries = [
        Entry(
            submission=submission,
            device=", ".join(device.name for device in environment.devices),
            machine=environment.machine_id,
            software=", ".join(
                [*versions, *(f"driver {d.driver}" for d in environment.devices[:1] if d.kind == "cuda")]
            ),
            row=row,
        )
        for row in made.rows
        if row.cells
    ]
    conditions = {key: value for key, value in made.conditions.items() if key not in _OF_A_MACHINE}
    return Board(
        stage=made.stage, window=made.window, conditions=conditions, columns=made.columns, entries=tuple(entries)
    )


def _ordered(board: Board) -> tuple[Entry, ...]:
    key = next((column.key for column in board.columns if column.unit == "s"), "")

    def place(entry: Entry) -> tuple[str, float]:
        cell = entry.row.cells.get(key)
        return entry.device, math.inf if cell is None or cell.value is None else cell.value

    return tuple(sorted(board.entries, key=place))
