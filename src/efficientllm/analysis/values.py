"""Every metric of one window, flat: what an index over many records holds."""

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
