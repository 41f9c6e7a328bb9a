"""Model FLOPs utilisation: the model's own arithmetic against the measured matrix peak."""

from __future__ import annotations

from efficientllm.analysis.metrics._contract import Absent, MetricEntry
from efficientllm.analysis.metrics._reading import matmul_peak, per_second
from efficientllm.analysis.table import Column
from efficientllm.records.measurement import Measurement
from efficientllm.records.window import Window


def mfu(measurement: Measurement, window: Window) -> float | Absent:
    """Return model FLOPs a second over the calibrated matrix peak of the trial's number format.

    Reads: work, series `step_s`, the calibrated matrix peak.
    Counts: FLOPs that the model needs (causal attention half, active experts only, no recompute), over all steps.
    Source: PaLM, arXiv 2204.02311, appendix B, with a measured peak in place of the datasheet's.

    >>> from efficientllm.analysis.metrics._example import calibrated, measured
    >>> from efficientllm.records.window import Work
    >>> mfu(*measured(work=Work(model_flops=1e11), step_s=(0.5, 0.5), ceilings=calibrated(flop_per_s=1e12)))
    0.2
    >>> mfu(*measured(work=Work(model_flops=1e11))).reason
    'the device is not calibrated here: run `efficientllm calibrate` first'
    """
    flop_per_s = per_second(measurement, window, window.work.model_flops, "model FLOPs")
    peak = matmul_peak(measurement)
    if isinstance(flop_per_s, Absent):
        return flop_per_s
    return peak if isinstance(peak, Absent) else flop_per_s / peak


ENTRY = MetricEntry(
    column=Column(
        key="mfu",
        title="MFU",
        unit="ratio",
        better="high",
        meaning="model FLOPs a second over the measured matrix peak",
    ),
    group="compute",
    headline=("train", "prefill", "user"),
    measure=mfu,
    order=0,
)
