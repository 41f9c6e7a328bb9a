"""All metrics of all records, one line a figure: what a data set of measurements is made of."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence

from efficientllm.analysis.catalogue import entries
from efficientllm.analysis.group import Group, groups
from efficientllm.analysis.metrics._contract import Absent
from efficientllm.analysis.select import counts, select
from efficientllm.records.measurement import Measurement

#: Column -> what stands in it.
COLUMNS = {
    "submission": "the bundle's file name",
    "measurement": "id of the record: trial, environment and attempt",
    "machine": "hash of device, driver, Python and torch: figures compare within one",
    "device": "name of the device, as its driver gives it",
    "protocol": "name of the measuring protocol",
    "workload": "what was done: pretrain, finetune, inference, serve, verify, user",
    "stage": "the recipe's stage",
    "technique": "what differs between rows of one group",
    "repeat": "which process of the technique this was, from 0",
    "window": "what was timed, with its coordinates",
    "metric": "name of the metric",
    "unit": "base unit of the value",
    "value": "the figure of this one process",
}


def lines(submissions: Mapping[str, Sequence[Measurement]]) -> Iterator[tuple[object, ...]]:
    """Yield a tuple in the order of `COLUMNS` for each metric of each window that counts."""
    for name, measurements in submissions.items():
        for group in groups(select(measurements).records):
            yield from _of_group(name, group)


def as_csv(submissions: Mapping[str, Sequence[Measurement]]) -> str:
    """Return the lines as CSV with a head."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(lines(submissions))
    return text.getvalue()


def _of_group(submission: str, group: Group) -> Iterator[tuple[object, ...]]:
    baseline = {record.trial.repeat: record for record in group.rows.get(group.baseline() or (), ()) if counts(record)}
    for record in group.records():
        trial, environment = record.trial, record.environment
        device = ", ".join(one.name for one in environment.devices)
        about = (submission, record.id, environment.machine_id, device, trial.protocol.name)
        what = (trial.settings_workload(), trial.stage, trial.technique(), trial.repeat)
        for window in record.windows if counts(record) else ():
            for entry in entries() if window.outcome == "ok" else ():
                value = entry.value(record, window, baseline.get(trial.repeat))
                if not isinstance(value, Absent):
                    yield (*about, *what, window.label(), entry.column.key, entry.column.unit, value)
