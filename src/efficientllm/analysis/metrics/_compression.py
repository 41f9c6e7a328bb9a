"""The paper's compression formula over measured bytes; its two entries differ in whose bytes they take."""

from __future__ import annotations

from efficientllm.analysis.metrics._contract import Absent
from efficientllm.analysis.metrics._reading import find_figure
from efficientllm.records.measurement import Measurement


def compression(
    own_bytes: float | Absent, baseline_bytes: float | Absent, measurement: Measurement, baseline: Measurement
) -> float | Absent:
    """Return (bytes_baseline / bytes) * (bits_per_byte_baseline / bits_per_byte), or why it cannot be told."""
    own, other = _bits_per_byte(measurement), _bits_per_byte(baseline)
    for figure in (own_bytes, own):
        if isinstance(figure, Absent):
            return figure
    for figure in (baseline_bytes, other):
        if isinstance(figure, Absent):
            return Absent(f"baseline: {figure.reason}")
    assert not isinstance(own_bytes, Absent) and not isinstance(baseline_bytes, Absent)
    assert not isinstance(own, Absent) and not isinstance(other, Absent)
    return (baseline_bytes / own_bytes) * (other / own)


def _bits_per_byte(measurement: Measurement) -> float | Absent:
    judged = measurement.find("quality")
    if judged is None or judged.outcome != "ok":
        return Absent("quality was not judged in this trial, so there is no quality ratio")
    return find_figure(measurement, judged, "heldout_bits_per_byte")
