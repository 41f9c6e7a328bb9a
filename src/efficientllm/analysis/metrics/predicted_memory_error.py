"""Error of predicted memory: how far the peak that was predicted from shapes is from the allocator's."""

from __future__ import annotations

from efficientllm.analysis.metrics._contract import Absent, MetricEntry
from efficientllm.analysis.metrics._reading import find_figure
from efficientllm.analysis.table import Column
from efficientllm.records.measurement import Measurement
from efficientllm.records.window import Window


def predicted_memory_error(measurement: Measurement, window: Window) -> float | Absent:
    """Return |predicted - allocated peak| over the allocated peak.

    Reads: figure `allocated_peak_bytes` of the window, and `predicted_peak_bytes` of the trial.

    >>> from efficientllm.analysis.metrics._example import measured
    >>> whole = {"predicted_peak_bytes": 6.0}
    >>> predicted_memory_error(*measured(whole=whole, figures={"allocated_peak_bytes": 8.0}))
    0.25
    """
    allocated_bytes = find_figure(measurement, window, "allocated_peak_bytes")
    if isinstance(allocated_bytes, Absent):
        kinds = {device.kind for device in measurement.environment.devices}
        return Absent("a processor's memory is not counted by an allocator") if kinds == {"cpu"} else allocated_bytes
    predicted_bytes = measurement.figures.get("predicted_peak_bytes")
    if predicted_bytes is None:
        why = measurement.absent.get("predicted_peak_bytes", "no memory was predicted when this was measured")
        return Absent(why)
    if measurement.figures.get("predicted_lower_bound"):
        return Absent("not all that the method keeps is counted: the prediction is a lower bound")
    if not allocated_bytes:
        return Absent("the allocator handed out nothing")
    return abs(predicted_bytes - allocated_bytes) / allocated_bytes


ENTRY = MetricEntry(
    column=Column(
        key="predicted_memory_error",
        title="Error of predicted memory",
        unit="ratio",
        better="low",
        meaning="difference of the peak predicted from shapes and the allocator's peak, over the latter",
    ),
    group="memory",
    windows=("train",),
    measure=predicted_memory_error,
    order=5,
)
