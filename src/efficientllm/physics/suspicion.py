"""What makes a record doubtful without making it impossible: short, throttled, drifting, shared, host-bound."""

from __future__ import annotations

import statistics

from efficientllm.physics.finding import Finding, steps_s, suspicious
from efficientllm.records.measurement import Measurement
from efficientllm.records.series import Series
from efficientllm.records.window import Caution, Window
from efficientllm.units import percent_text, seconds_text

_SHORT_S, _COUNTER_UPDATES = 5.0, 50
#: Clocks and step times may move by so much within a window.
_CLOCK_FALL, _STEP_DRIFT = 0.07, 0.05
_THROTTLED_SHARE = 0.05
_OUTLIER_MULTIPLE, _OUTLIER_EFFECT = 2.0, 0.05
_FOREIGN_SHARE = 0.1
#: Below so much of the time with a kernel on the device, or above so much between steps, the host sets the pace.
_DEVICE_BUSY, _BETWEEN_STEPS = 0.7, 0.1
#: NVML's bits for clocks held down by the power cap, by heat, by the hardware, by a power brake.
THROTTLE_BITS = {0x4: "power cap", 0x8: "hardware", 0x20: "heat", 0x40: "heat", 0x80: "power brake"}


def long_enough(measurement: Measurement, window: Window) -> list[Finding]:
    """A window lasts 5 s, or 50 updates of the energy counter (`under_5s_window`)."""
    length_s = window.end_s - window.begin_s
    if length_s >= _SHORT_S or window.figures.get("num_energy_updates", 0.0) >= _COUNTER_UPDATES:
        return []
    error_j = window.figures.get("edge_error_j", 0.0) + window.figures.get("energy_resolution_j", 0.0)
    energy_j = window.figures.get("energy_j")
    error = f"; its energy is known to ±{percent_text(error_j / energy_j)}" if error_j and energy_j else ""
    return suspicious(window, "under_5s_window", f"only {seconds_text(length_s)} long{error}")


def not_throttled(measurement: Measurement, window: Window) -> list[Finding]:
    """The device says of no throttling, and its clock does not fall by more than 7 % (`throttled`)."""
    reasons = window.find("throttle_reasons")
    names = {name for bit, name in THROTTLE_BITS.items() if reasons and _share_with(reasons, bit) > _THROTTLED_SHARE}
    if names:
        return suspicious(window, "throttled", f"clocks were held down by {', '.join(sorted(names))}")
    clock = window.find("clock_hz")
    first, last = _thirds(clock.values if clock else ())
    if not first or statistics.mean(last) >= (1 - _CLOCK_FALL) * statistics.mean(first):
        return []
    fall = 1 - statistics.mean(last) / statistics.mean(first)
    return suspicious(window, "throttled", f"the clock fell by {percent_text(fall)} from first to last third")


def no_drift(measurement: Measurement, window: Window) -> list[Finding]:
    """Step times at the end are those of the beginning, within 5 % and their spread (`drift`)."""
    first, last = _thirds(steps_s(window))
    if len(first) < 4:
        return []
    change = statistics.median(last) / statistics.median(first) - 1
    early, late = statistics.quantiles(first, n=4), statistics.quantiles(last, n=4)
    apart = late[0] > early[2] or early[0] > late[2]
    if abs(change) <= _STEP_DRIFT or not apart:
        return []
    word = "longer" if change > 0 else "shorter"
    text = f"steps of the last third are {percent_text(abs(change))} {word} than those of the first"
    return suspicious(window, "drift", text)


def no_outliers(measurement: Measurement, window: Window) -> list[Finding]:
    """A few long steps do not move the mean away from the median by more than 5 % (`outliers`)."""
    values = steps_s(window)
    if not values:
        return []
    median_s = statistics.median(values)
    slow = sum(value > _OUTLIER_MULTIPLE * median_s for value in values)
    effect = statistics.fmean(values) / median_s - 1 if median_s > 0 else 0.0
    if not slow or effect <= _OUTLIER_EFFECT:
        return []
    text = f"{slow} of {len(values)} steps took over twice the median, the mean lies {percent_text(effect)} above it"
    return suspicious(window, "outliers", text)


def device_sets_the_pace(measurement: Measurement, window: Window) -> list[Finding]:
    """The device is busy most of the time, and little time lies between steps (`host_bound`)."""
    if window.name not in ("train", "prefill", "decode", "generate"):
        return []
    devices = measurement.environment.devices
    busy = window.find("busy_ratio")
    if busy and busy.values and devices and devices[0].kind != "cpu":
        share = statistics.fmean(busy.values)
        if share < _DEVICE_BUSY:
            text = f"something ran on the device for only {percent_text(share)} of the time: the host sets the pace"
            return suspicious(window, "host_bound", text)
    length_s, values = window.end_s - window.begin_s, steps_s(window)
    between = 1 - sum(values) / length_s if values and length_s > 0 else 0.0
    if between <= _BETWEEN_STEPS:
        return []
    return suspicious(window, "host_bound", f"{percent_text(between)} of the window lies between its steps")


def alone(measurement: Measurement, window: Window) -> list[Finding]:
    """Nobody else used the device (`foreign_process`)."""
    foreign = window.find("num_foreign_processes")
    most = max(foreign.values, default=0.0) if foreign else 0.0
    if most > 0:
        return suspicious(window, "foreign_process", f"{most:.0f} other processes were on the device")
    share = window.figures.get("foreign_busy_ratio", 0.0)
    if share <= _FOREIGN_SHARE:
        return []
    return suspicious(window, "foreign_process", f"other processes took {percent_text(share)} of the processor")


def settled_at_start(measurement: Measurement) -> list[Finding]:
    """Power and clocks had settled before the trial (`warm_start`), where the phase `cool_down` was timed."""
    waited_s, most_s = measurement.phases_s.get("cool_down", 0.0), measurement.trial.protocol.cool_down_max_s
    if most_s <= 0 or waited_s < most_s:
        return []
    text = f"power and clocks had not settled after {seconds_text(most_s)} of cool-down"
    return [Finding(code="warm_start", text=text)]


def as_cautions(findings: list[Finding]) -> tuple[Caution, ...]:
    """Return the findings that are no proof as a record's cautions."""
    return tuple(Caution(code=f.code, text=f.text) for f in findings if not f.invalid)


def _share_with(reasons: Series, bit: int) -> float:
    return sum(bool(int(value) & bit) for value in reasons.values) / max(1, len(reasons.values))


def _thirds(values: tuple[float, ...]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the first and the last third of some values, both empty below three."""
    third = len(values) // 3
    return (values[:third], values[-third:]) if third else ((), ())
