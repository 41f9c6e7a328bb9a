"""Compression (disk): how much smaller, times how much of the quality is left."""

from __future__ import annotations

from efficientllm.analysis.metrics._compression import compression
from efficientllm.analysis.metrics._contract import ALL_WINDOWS, Absent, MetricEntry
from efficientllm.analysis.metrics.disk_bytes import disk_bytes
from efficientllm.analysis.table import Column
from efficientllm.records.measurement import Measurement
from efficientllm.records.window import Window


def compression_disk(measurement: Measurement, window: Window, baseline: Measurement) -> float | Absent:
    """Return size ratio times quality ratio against the baseline's measurement of the same round.

        (size_baseline / size) * (quality / quality_baseline),  quality = 1 / bits per byte

    Size: measured bytes (saved weights), not a nominal ratio. Source: arXiv 2505.13840, MCR.
    Reads: the model's saved bytes and the figure `heldout_bits_per_byte`, of both trials.

    >>> from efficientllm.analysis.metrics._example import facts, measured
    >>> small, window = measured("quality", figures={"heldout_bits_per_byte": 2.5}, model=facts(disk_bytes=1000))
    >>> base, _ = measured("quality", figures={"heldout_bits_per_byte": 2.0}, model=facts(disk_bytes=4000))
    >>> compression_disk(small, window, base)
    3.2
    """
    return compression(disk_bytes(measurement, window), disk_bytes(baseline, window), measurement, baseline)


ENTRY = MetricEntry(
    column=Column(
        key="compression_disk",
        title="Compression on disk",
        symbol="MCR",
        unit="factor",
        better="high",
        meaning="size ratio of the saved weights times quality ratio, both to the baseline",
    ),
    group="compression",
    windows=ALL_WINDOWS,
    against=compression_disk,
    order=1,
)
