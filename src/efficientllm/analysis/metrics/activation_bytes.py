"""Activations: what the peak of a training step holds beside weights, gradients and the optimiser's state."""

from __future__ import annotations

from efficientllm.analysis.metrics._contract import Absent, MetricEntry
from efficientllm.analysis.metrics._reading import figure_of_trial, find_figure, model_facts
from efficientllm.analysis.table import Column
from efficientllm.records.measurement import Measurement
from efficientllm.records.window import Window


def activation_bytes(measurement: Measurement, window: Window) -> float | Absent:
    """Return the allocator's peak less weights, gradients and the optimiser's state, in bytes.

    Reads: figure `allocated_peak_bytes`; the trial's `gradient_bytes` and `optimizer_bytes`; the model's weight bytes.
    Gradients exist as a whole at a step's end only: at the peak, in the backward pass, some are still to come.

    >>> from efficientllm.analysis.metrics._example import facts, measured
    >>> parts = {"gradient_bytes": 10.0, "optimizer_bytes": 20.0}
    >>> activation_bytes(*measured(figures={"allocated_peak_bytes": 100.0}, whole=parts, model=facts(weight_bytes=40)))
    30.0
    """
    peak, model = find_figure(measurement, window, "allocated_peak_bytes"), model_facts(measurement)
    parts = [figure_of_trial(measurement, name) for name in ("gradient_bytes", "optimizer_bytes")]
    for known in (peak, model, *parts):
        if isinstance(known, Absent):
            return known
    return peak - model.weight_bytes - sum(parts)  # type: ignore[operator,union-attr,arg-type] # none is absent


ENTRY = MetricEntry(
    column=Column(
        key="activation_bytes",
        title="Activations",
        unit="bytes",
        better="low",
        meaning="what the allocator's peak holds beside weights, gradients and the optimiser's state",
    ),
    group="memory",
    measure=activation_bytes,
    order=23,
)
