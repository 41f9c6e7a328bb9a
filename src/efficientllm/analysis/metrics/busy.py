"""Busy: the share of time in which the device, or the processor's cores, did something."""

from __future__ import annotations

from efficientllm.analysis.metrics._contract import Absent, MetricEntry
from efficientllm.analysis.metrics._reading import mean_of
from efficientllm.analysis.table import Column
from efficientllm.records.measurement import Measurement
from efficientllm.records.window import Window


def busy(measurement: Measurement, window: Window) -> float | Absent:
    """Return the mean busy ratio.

    Reads: series `busy_ratio` (the driver's, which only says that some kernel was resident); on a processor, its
    seconds over the window's and its cores. For comparison only. Source: arXiv 2505.13840, PCU.

    >>> from efficientllm.analysis.metrics._example import measured, series
    >>> busy(*measured(busy_ratio=series(0.5, 0.7)))
    0.6
    >>> busy(*measured(kind="cpu", processor_s=series(0.0, 1.0, 3.0)))
    0.75
    """
    used = window.find("processor_s")
    devices = measurement.environment.devices
    if used and len(used.values) > 1 and devices and devices[0].kind == "cpu" and devices[0].cores:
        return (used.values[-1] - used.values[0]) / (used.at_s[-1] - used.at_s[0]) / devices[0].cores
    return mean_of(measurement, window, "busy_ratio")


ENTRY = MetricEntry(
    column=Column(
        key="busy",
        title="Busy",
        symbol="PCU",
        unit="ratio",
        meaning="share of time with something running, as the driver says; comparison only",
    ),
    group="compute",
    measure=busy,
    order=3,
)
