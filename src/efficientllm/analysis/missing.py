"""Rows of what could not be measured, since the stage that it stands on gave nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from efficientllm.analysis.group import Group
from efficientllm.analysis.select import counts
from efficientllm.analysis.table import Row


def missing_rows(group: Group, parted: Sequence[Group], stages: Mapping[str, str]) -> tuple[Row, ...]:
    """Return rows for techniques of the parent stage that failed there and have no record here.

    Args:
        group: whose rows are looked at.
        parted: all groups.
        stages: trial -> its stage, of all records.
    """
    source = next((stage for r in group.records() if (stage := stages.get(r.trial.parent, ""))), "")
    if not source:
        return ()
    present = [dict(axes) for axes in group.rows]
    machine = group.records()[0].environment.machine_id
    rows = []
    for parent in parted:
        if parent.stage != source or parent.records()[0].environment.machine_id != machine:
            continue
        for axes, parents in parent.rows.items():
            here = axes in group.rows or any(dict(axes).items() <= one.items() for one in present)
            if not here and not any(counts(record) for record in parents):
                reason = f"not measured: {source} ended {parents[0].outcome}: {parents[0].reason}"
                rows.append(Row(technique=parents[0].trial.technique(), outcome="missing", reason=reason))
    return tuple(rows)
