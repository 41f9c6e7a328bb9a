"""Every metric of one window, flat, and what each is: what an index over many records holds."""

from __future__ import annotations

from efficientllm.analysis.catalogue import entries
from efficientllm.analysis.metrics._contract import Absent
from efficientllm.records.measurement import Measurement
from efficientllm.records.window import Window


def all_metrics(measurement: Measurement, window: Window) -> dict[str, float]:
    """Return metric -> value, in base units, of all metrics that the window has; those that need a baseline are not.

    >>> from efficientllm.records.examples import example_measurement
    >>> measurement = example_measurement()
    >>> all_metrics(measurement, measurement.windows[0])["latency_median"]
    0.5
    """
    if window.outcome != "ok":
        return {}
    values = {entry.column.key: entry.value(measurement, window) for entry in entries() if entry.applies(window.name)}
    return {key: float(value) for key, value in values.items() if not isinstance(value, Absent)}


def told_metrics(measurement: Measurement, window: Window) -> dict[str, float | str]:
    """Return metric -> value or the reason for its absence, of all metrics that the window can have.

    >>> from efficientllm.records.examples import example_measurement
    >>> measurement = example_measurement()
    >>> told_metrics(measurement, measurement.windows[0])["mfu"]
    'the device is not calibrated here: run `efficientllm calibrate` first'
    """
    told: dict[str, float | str] = {}
    for entry in entries():
        if not entry.applies(window.name):
            continue
        if window.outcome != "ok":
            told[entry.column.key] = f"{window.outcome}: {window.reason or 'no reason was recorded'}"
        elif entry.measure is None:
            told[entry.column.key] = "needs the baseline's record of the same round: the study's table has it"
        else:
            value = entry.value(measurement, window)
            told[entry.column.key] = value.reason if isinstance(value, Absent) else float(value)
    return told


def metric_info() -> list[dict[str, str]]:
    """Return a row for each metric: what it is, for people and programs.

    >>> metric_info()[0]["metric"], metric_info()[0]["unit"]
    ('memory_mean', 'bytes')
    """
    return [
        {
            "metric": entry.column.key,
            "title": entry.column.title,
            "kind": entry.group,
            "unit": entry.column.unit,
            "better": entry.column.better,
            "meaning": entry.column.meaning,
        }
        for entry in entries()
    ]
