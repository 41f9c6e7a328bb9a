"""What workloads said of their own series, recomputed: losses, quality, items, and when the first window began."""

from __future__ import annotations

import math
from collections.abc import Iterator

from efficientllm.records.measurement import Measurement
from efficientllm.records.window import Window
from efficientllm.validity.bounds import Bounds, exactly

_MOST_NATS = 700.0


def of_window(window: Window) -> Iterator[tuple[str, Bounds]]:
    """Yield each figure that a window's series or its other figures give."""
    figures = window.figures
    nats, tokens, num_bytes = (
        figures.get(name) for name in ("heldout_nats_per_token", "heldout_tokens", "heldout_bytes")
    )
    rows = window.find("row_nats")
    if rows is not None and rows.values and tokens:
        yield "heldout_nats_per_token", exactly(math.fsum(rows.values) / tokens)
    if nats is not None and math.isfinite(nats):
        yield "heldout_perplexity", exactly(math.exp(min(nats, _MOST_NATS)))
        if tokens and num_bytes:
            yield "heldout_bits_per_byte", exactly(nats * tokens / num_bytes / math.log(2))
    right = window.find("item_right")
    if right is not None and right.values:
        share = math.fsum(right.values) / len(right.values)
        yield "asked_items", exactly(float(len(right.values)))
        yield "accuracy_ratio", exactly(share)
        error = math.sqrt(max(0.0, share * (1 - share)) / len(right.values))
        yield "accuracy_standard_error_ratio", Bounds(low=error - 1e-9, high=error + 1e-9)


def of_record(measurement: Measurement) -> Iterator[tuple[str, Bounds]]:
    """Yield each figure of the whole trial that its windows give."""
    first = next((window for window in measurement.windows if window.name not in ("idle", "curve")), None)
    if first is not None:
        yield "startup_s", exactly(first.begin_s)
    idle = measurement.find("idle")
    if idle is not None and "power_mean_w" in idle.figures:
        yield "idle_context_power_w", exactly(idle.figures["power_mean_w"])
    curve = measurement.find("curve")
    loss = curve.find("loss") if curve else None
    if loss is not None and loss.values:
        yield "first_loss", exactly(loss.values[0])
    before, after = measurement.find("forgetting_before"), measurement.find("forgetting_after")
    if before is not None and after is not None:
        nats = [window.figures.get("heldout_nats_per_token", math.nan) for window in (before, after)]
        rise = nats[1] - nats[0]
        if math.isfinite(rise):
            yield "forgetting_nats_per_token", Bounds(low=rise - 1e-9, high=rise + 1e-9)
