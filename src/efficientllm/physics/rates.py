"""Rates and times against the ceilings: FLOP/s, bytes/s, the roofline's floor, the clock itself."""

from __future__ import annotations

import math
import statistics

from efficientllm.physics.finding import (
    CALIBRATION_MARGIN,
    Datasheet,
    Finding,
    impossible,
    steps_s,
    suspicious,
)
from efficientllm.physics.roofline import Roof, datasheet_roof, floor_s, measured_roof
from efficientllm.records.measurement import Measurement
from efficientllm.records.window import Window
from efficientllm.units import quantity_text, seconds_text

#: Steps may add up to so much more than their window: the clock's resolution at two edges.
_WINDOW_SLACK = 1.001


def flops_within_peak(measurement: Measurement, window: Window, datasheet: Datasheet | None) -> list[Finding]:
    """The window's mean FLOP/s may not exceed the peak (`flops_above_peak`)."""
    return _rate(measurement, window, datasheet, amount=window.work.model_flops, kind="flop")


def bytes_within_bandwidth(measurement: Measurement, window: Window, datasheet: Datasheet | None) -> list[Finding]:
    """The window's mean bytes/s may not exceed the bandwidth (`bytes_above_peak`), unless a cache could serve them."""
    return _rate(measurement, window, datasheet, amount=window.work.moved_bytes, kind="bytes")


def steps_above_floor(measurement: Measurement, window: Window, datasheet: Datasheet | None) -> list[Finding]:
    """No single step may be shorter than the roofline allows (`step_below_floor`).

    A clock that is read before the device has finished shows here: most steps are too short, one carries the rest,
    and the mean rate looks right. Where the mean itself is too short, the rates have said so already.
    """
    values = steps_s(window)
    if not values:
        return []
    fastest_s, mean_s = min(values), statistics.fmean(values)
    if datasheet is not None:
        floor = floor_s(window.work, datasheet_roof(measurement, window, datasheet)) or 0.0
        if fastest_s < floor <= mean_s:
            text = f"a step took {seconds_text(fastest_s)}, its work needs {seconds_text(floor)} by the datasheet"
            return impossible(window, "step_below_floor", text)
    floor = (floor_s(window.work, _undocumented(measurement, window, datasheet)) or 0.0) / CALIBRATION_MARGIN
    if not fastest_s < floor <= mean_s:
        return []
    needs = f"its work needs {seconds_text(floor)} at {CALIBRATION_MARGIN} times the calibrated ceiling"
    text = f"a step took {seconds_text(fastest_s)}, {needs}"
    return suspicious(window, "no_datasheet", text)


def clock_is_sane(measurement: Measurement, window: Window) -> list[Finding]:
    """Steps are positive and together no longer than their window (`bad_clock`)."""
    values, length_s = steps_s(window), window.end_s - window.begin_s
    if values and not all(math.isfinite(value) and value > 0 for value in values):
        return impossible(window, "bad_clock", "a step took no time, or less")
    if sum(values) > length_s * _WINDOW_SLACK + 1e-6:
        text = f"its steps add up to {seconds_text(sum(values))} in a window of {seconds_text(length_s)}"
        return impossible(window, "bad_clock", text)
    return []


def _rate(
    measurement: Measurement, window: Window, datasheet: Datasheet | None, *, amount: float, kind: str
) -> list[Finding]:
    values = steps_s(window)
    if not values or amount <= 0 or sum(values) <= 0:
        return []
    rate = amount * len(values) / sum(values)
    said = _ceiling(datasheet_roof(measurement, window, datasheet), kind) if datasheet else 0.0
    if said > 0:
        if rate <= said:
            return []
        text = f"{_text(rate, kind)} is more than the datasheet's {_text(said, kind)}"
        code = "flops_above_peak" if kind == "flop" else "bytes_above_peak"
        return impossible(window, code, text)
    calibrated = _ceiling(measured_roof(measurement, window), kind)
    if calibrated <= 0 or rate <= CALIBRATION_MARGIN * calibrated:
        return []
    text = (
        f"{_text(rate, kind)} is more than {CALIBRATION_MARGIN} times the calibrated {_text(calibrated, kind)}, and no "
        "datasheet is known to judge it by"
    )
    return suspicious(window, "no_datasheet", text)


def _undocumented(measurement: Measurement, window: Window, datasheet: Datasheet | None) -> Roof:
    """The calibrated ceilings of which the datasheet says nothing."""
    calibrated = measured_roof(measurement, window)
    said = datasheet_roof(measurement, window, datasheet) if datasheet else Roof()
    return Roof(
        flop_per_s=0.0 if said.flop_per_s else calibrated.flop_per_s,
        bytes_per_s=0.0 if said.bytes_per_s else calibrated.bytes_per_s,
    )


def _ceiling(roof: Roof, kind: str) -> float:
    return roof.flop_per_s if kind == "flop" else roof.bytes_per_s


def _text(rate: float, kind: str) -> str:
    return quantity_text(rate, f"{kind}/s")
