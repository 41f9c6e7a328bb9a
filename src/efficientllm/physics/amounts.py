"""Memory, energy and ratios against what the device holds, draws and can be."""

from __future__ import annotations

from efficientllm.physics.finding import Datasheet, Finding, impossible, num_devices, suspicious
from efficientllm.records.measurement import Measurement
from efficientllm.records.window import Window
from efficientllm.units import bytes_text, percent_text, quantity_text, seconds_text

_MEMORY_SERIES = ("process_memory_bytes", "device_memory_bytes")
_MEMORY_FIGURES = ("allocated_peak_bytes", "reserved_peak_bytes")
_ABOVE_CAP, _BELOW_IDLE = 1.05, 0.9
#: The energy counter and the integral of the power readings may differ by so much.
_POWER_GAP = 0.05
#: A ratio may exceed 1 by so much: two counters that are not read at the same instant.
_RATIO_SLACK = 0.02
_RATIO_JITTER_S = 0.02


def memory_within_capacity(measurement: Measurement, window: Window, datasheet: Datasheet | None) -> list[Finding]:
    """No memory figure, each of which is of one device, may exceed what it holds (`memory_above_capacity`)."""
    capacity_bytes: float = max((device.capacity_bytes for device in measurement.environment.devices), default=0)
    if not capacity_bytes and datasheet:
        capacity_bytes = datasheet.capacity_bytes
    figures = {name: window.figures[name] for name in _MEMORY_FIGURES if name in window.figures}
    for series in window.series:
        if series.name in _MEMORY_SERIES and series.values:
            figures[series.name] = max(figures.get(series.name, 0.0), *series.values)
    found = []
    for name, used_bytes in figures.items():
        if 0 < capacity_bytes < used_bytes:
            text = f"{name} of {bytes_text(used_bytes)} on a device of {bytes_text(capacity_bytes)}"
            found += impossible(window, "memory_above_capacity", text)
        elif used_bytes < 0:
            found += impossible(window, "memory_negative", f"{name} of {used_bytes:.0f} bytes")
    return found


def energy_within_cap(measurement: Measurement, window: Window, datasheet: Datasheet | None) -> list[Finding]:
    """Energy is at most cap times time (`energy_above_cap`), beyond 5 % and the error of the window's edges."""
    energy_j, length_s = window.figures.get("energy_j"), window.end_s - window.begin_s
    cap_w = _cap_w(measurement, datasheet)
    if energy_j is None or cap_w is None:
        return []
    if energy_j - _edge_error_j(window) <= _ABOVE_CAP * cap_w * length_s:
        return []
    text = f"{_joules(energy_j)} in {seconds_text(length_s)} is more than the power cap of {cap_w:.0f} W allows"
    return impossible(window, "energy_above_cap", text)


def energy_above_idle(measurement: Measurement, window: Window) -> list[Finding]:
    """Energy is at least idle power times time (`energy_below_idle`), less 10 % and the error of the edges.

    A counter that stood still is caught without an idle power too: nothing runs on no energy.
    """
    energy_j, length_s = window.figures.get("energy_j"), window.end_s - window.begin_s
    of_one_w = (measurement.ceilings.idle_power_w if measurement.ceilings else None) or 0.0
    idle_w = measurement.figures.get("idle_power_w", num_devices(measurement) * of_one_w)
    if energy_j is None or length_s <= 0:
        return []
    if energy_j > 0 and energy_j + _edge_error_j(window) >= _BELOW_IDLE * idle_w * length_s:
        return []
    text = f"{_joules(energy_j)} in {seconds_text(length_s)} is less than idling at {idle_w:.0f} W takes"
    return impossible(window, "energy_below_idle", text)


def energy_agrees_with_power(measurement: Measurement, window: Window) -> list[Finding]:
    """The energy counter and the integrated power readings differ by 5 % at most (`energy_power_gap`).

    Of a window too short for its counter (`energy_resolution_j`) that cannot be told; `under_5s_window` says so.
    """
    gap = window.figures.get("cross_check_ratio", 0.0)
    if abs(gap) <= _POWER_GAP or "energy_resolution_j" in window.figures:
        return []
    text = f"the energy counter and the integrated power differ by {percent_text(gap)}"
    return suspicious(window, "energy_power_gap", text)


def energy_agrees_with_external(measurement: Measurement, window: Window) -> list[Finding]:
    """No device rises by more than the external meter's reading does, beyond 5 % (`external_meter_below`)."""
    bound = window.figures.get("energy_systematic_bound_ratio", 0.0)
    if bound >= -_POWER_GAP:
        return []
    text = f"the external meter saw {percent_text(-bound)} less than the device's own sensor"
    return suspicious(window, "external_meter_below", text)


def ratios_within_one(measurement: Measurement, window: Window) -> list[Finding]:
    """Utilisation lies between 0 and 1 over the window (`ratio_out_of_range`).

    A single reading may pass 1: processor seconds are read a little before or after the clock, which over a short
    pause between two readings is a few per cent. Over the window that comes to `_RATIO_JITTER_S` at its edges.
    """
    found = []
    slack = 1 + _RATIO_SLACK + _RATIO_JITTER_S / max(window.end_s - window.begin_s, _RATIO_JITTER_S)
    for series in window.series:
        if series.unit == "ratio" and series.values:
            low, mean = min(series.values), sum(series.values) / len(series.values)
            if low < 0 or mean > slack:
                text = f"{series.name} is {percent_text(mean)} on average and {percent_text(low)} at least"
                found += impossible(window, "ratio_out_of_range", text)
    return found


def _cap_w(measurement: Measurement, datasheet: Datasheet | None) -> float | None:
    caps = [device.power_cap_w for device in measurement.environment.devices]
    known = [cap for cap in caps if cap is not None]
    if caps and len(known) == len(caps):
        return sum(known)
    if datasheet is None or datasheet.power_cap_w is None:
        return None
    return num_devices(measurement) * datasheet.power_cap_w


def _edge_error_j(window: Window) -> float:
    """How far the window's energy may be off: at its edges and, where it is short, by the counter's largest step."""
    return window.figures.get("edge_error_j", 0.0) + window.figures.get("energy_resolution_j", 0.0)


def _joules(energy_j: float) -> str:
    return quantity_text(energy_j, "j")
