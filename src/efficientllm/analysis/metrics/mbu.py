"""Memory bandwidth utilisation: the bytes that must move against the measured bandwidth."""

from __future__ import annotations

from efficientllm.analysis.metrics._contract import Absent, MetricEntry
from efficientllm.analysis.metrics._reading import NOT_CALIBRATED, per_second
from efficientllm.analysis.table import Column
from efficientllm.physics.roofline import cache_reason, measured_roof
from efficientllm.records.measurement import Measurement
from efficientllm.records.window import Window


def mbu(measurement: Measurement, window: Window) -> float | Absent:
    """Return counted bytes a second over the calibrated bandwidth: read in inference, copy in training.

    Reads: work, series `step_s`, the calibrated bandwidth.
    Counts: the fewest bytes that a step must move (in decode: weights and cache once). Absent where the working set is
    below 4 last-level caches, since then it may not have crossed the memory at all.

    >>> from efficientllm.analysis.metrics._example import calibrated, measured
    >>> from efficientllm.records.window import Work
    >>> work = Work(moved_bytes=1e9, working_set_bytes=1e9)
    >>> mbu(*measured(work=work, step_s=(0.5, 0.5), ceilings=calibrated(bytes_per_s=4e9)))
    0.5
    >>> mbu(*measured(work=Work(moved_bytes=512, working_set_bytes=512), ceilings=calibrated(bytes_per_s=4e9))).reason
    'cache_resident: a step touches less than 4 times the last-level cache of 1.00 KiB'
    """
    bytes_per_s = per_second(measurement, window, window.work.moved_bytes, "moved bytes")
    if isinstance(bytes_per_s, Absent):
        return bytes_per_s
    if measurement.ceilings is None:
        return Absent(NOT_CALIBRATED)
    cached = cache_reason(measurement, window)
    if cached:
        return Absent(cached)
    peak = measured_roof(measurement, window).bytes_per_s
    return bytes_per_s / peak if peak else Absent("the calibration has no bandwidth for large working sets")


ENTRY = MetricEntry(
    column=Column(
        key="mbu",
        title="MBU",
        unit="ratio",
        better="high",
        meaning="bytes that must move a second over the measured bandwidth",
    ),
    group="compute",
    headline=("decode",),
    measure=mbu,
    order=1,
)
