"""Rows of what could not be measured, since the stage that it stands on gave nothing."""

from __future__ import annotations

from collections.abc import Sequence

from efficientllm.analysis.group import Group, parent_stage
from efficientllm.analysis.select import counts
from efficientllm.analysis.table import Row
from efficientllm.records.measurement import Measurement


def missing_rows(group: Group, parted: Sequence[Group], records: Sequence[Measurement]) -> tuple[Row, ...]:
    """Return rows for techniques of the parent stage that failed there and have no record here."""
    source = parent_stage(group, records)
    present = [dict(axes) for axes in group.rows]
    machine = group.records()[0].environment.machine_id
    rows = []
    for parent in parted:
        if parent.stage != source or parent.records()[0].environment.machine_id != machine:
            continue
        for axes, parents in parent.rows.items():
            here = any(dict(axes).items() <= one.items() for one in present)
            if not here and not any(counts(record) for record in parents):
                reason = f"not measured: {source} ended {parents[0].outcome}: {parents[0].reason}"
                rows.append(Row(technique=parents[0].trial.technique(), outcome="missing", reason=reason))
    return tuple(rows)
