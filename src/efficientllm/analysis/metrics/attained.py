"""Attained: how near the implementation comes to the hardware's limit for its own work."""

from __future__ import annotations

from efficientllm.analysis.metrics._contract import Absent, MetricEntry
from efficientllm.analysis.metrics._reading import NOT_CALIBRATED, steps
from efficientllm.analysis.table import Column
from efficientllm.physics import roofline
from efficientllm.physics.roofline import cache_reason
from efficientllm.records.measurement import Measurement
from efficientllm.records.window import Window


def attained(measurement: Measurement, window: Window) -> float | Absent:
    """Return the roofline time of the window's own work over its median step.

    A technique that does less work is not better by it here: this tells technique from implementation. Reads: work,
    `step_s`, ceilings.

    >>> from efficientllm.analysis.metrics._example import calibrated, measured
    >>> from efficientllm.records.window import Work
    >>> work = Work(model_flops=1e11, moved_bytes=1e9, working_set_bytes=1e9)
    >>> attained(*measured(work=work, step_s=(0.5, 0.5), ceilings=calibrated(flop_per_s=1e12, bytes_per_s=4e9)))
    0.5
    """
    values = steps(measurement, window)
    if isinstance(values, Absent):
        return values
    if measurement.ceilings is None:
        return Absent(NOT_CALIBRATED)
    share = roofline.attained(measurement, window)
    if share is not None:
        return share
    reason = cache_reason(measurement, window) if window.work.moved_bytes else ""
    return Absent(reason or "no ceiling of the calibration applies to what was counted of the work")


ENTRY = MetricEntry(
    column=Column(
        key="attained",
        title="Attained",
        unit="ratio",
        better="high",
        meaning="shortest possible time of its own work over the measured time",
    ),
    group="compute",
    headline=("generate",),
    measure=attained,
    order=2,
)
