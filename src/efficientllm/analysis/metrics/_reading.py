"""How metrics read a window: means over time, totals over steps, and the reason where something is missing."""

from __future__ import annotations

import statistics

from efficientllm.analysis.metrics._contract import Absent
from efficientllm.physics.finding import dtype_of, num_devices
from efficientllm.records.measurement import Measurement, ModelFacts
from efficientllm.records.series import Series
from efficientllm.records.window import Window
from efficientllm.stats.percentile import percentile

#: The window of a served load, whose steps are requests that overlap.
SERVED = "serve"
NOT_CALIBRATED = "the device is not calibrated here: run `efficientllm calibrate` first"


def time_mean(series: Series) -> float:
    """Return the mean over time, straight lines between the points; one point is its own mean.

    >>> time_mean(Series(name="", unit="bytes", at_s=(0.0, 1.0, 3.0), values=(20, 60, 60)))
    53.333333333333336
    """
    at_s, values = series.at_s, series.values
    length_s = at_s[-1] - at_s[0]
    if length_s <= 0:
        return sum(values) / len(values)
    areas = ((at_s[i + 1] - at_s[i]) * (values[i] + values[i + 1]) / 2 for i in range(len(values) - 1))
    return sum(areas) / length_s


def find_series(measurement: Measurement, window: Window, name: str) -> Series | Absent:
    """Return a series that has values, or why there is none."""
    series = window.find(name)
    return series if series and series.values else why_absent(measurement, window, name)


def of_all_devices(measurement: Measurement, window: Window, name: str) -> list[Series] | Absent:
    """Return a sampled series of each device that the work ran on, or why there is none of one of them."""
    found = [series for series in window.series if series.name == name and series.values]
    wanted = 1 if _shared(measurement) else num_devices(measurement)
    return found if len(found) >= wanted else why_absent(measurement, window, name)


def _shared(measurement: Measurement) -> bool:
    return all(device.kind == "cpu" for device in measurement.environment.devices)


def find_figure(measurement: Measurement, window: Window, name: str) -> float | Absent:
    """Return a figure of the window, or why there is none."""
    value = window.figures.get(name)
    return why_absent(measurement, window, name) if value is None else value


def figure_of_trial(measurement: Measurement, name: str) -> float | Absent:
    """Return a figure of the whole trial, or why there is none."""
    value = measurement.figures.get(name)
    return Absent(measurement.absent.get(name) or f"{name} was not recorded") if value is None else value


def why_absent(measurement: Measurement, window: Window, name: str) -> Absent:
    """Return the recorded reason for a quantity's absence, the window's own first."""
    return Absent(window.absent.get(name) or measurement.absent.get(name) or f"{name} was not recorded")


def mean_of(measurement: Measurement, window: Window, name: str) -> float | Absent:
    """Return a series' mean over time, and over the devices where there are several, or why there is none."""
    found = of_all_devices(measurement, window, name)
    return found if isinstance(found, Absent) else statistics.fmean(time_mean(series) for series in found)


def steps(measurement: Measurement, window: Window) -> tuple[float, ...] | Absent:
    """Return the step times in seconds, or why there are none; of served load a step is a request, end to end."""
    series = find_series(measurement, window, "request_s" if window.name == SERVED else "step_s")
    return series if isinstance(series, Absent) else series.values


def per_second(measurement: Measurement, window: Window, amount: float, what: str) -> float | Absent:
    """Return an amount a step as a rate over all steps together, or why there is none."""
    values = steps(measurement, window)
    if isinstance(values, Absent):
        return values
    if amount <= 0:
        return Absent(f"the work of a {window.name} step was not counted in {what}")
    if window.name == SERVED:  # requests overlap: their times add up to more than has gone by
        done = _served(measurement, window, amount)
        return done if isinstance(done, Absent) else done / (window.end_s - window.begin_s)
    return amount * len(values) / sum(values)


def energy_per(measurement: Measurement, window: Window, amount: float, what: str) -> float | Absent:
    """Return the window's joules over an amount a step times its steps, or why there is none."""
    energy_j = find_figure(measurement, window, "energy_j")
    values = steps(measurement, window)
    if isinstance(energy_j, Absent):
        return energy_j
    if isinstance(values, Absent):
        return values
    if amount <= 0:
        return Absent(f"the work of a step was not counted in {what}")
    if window.name == SERVED:
        done = _served(measurement, window, amount)
        return done if isinstance(done, Absent) else energy_j / done
    return energy_j / (amount * len(values))


def _served(measurement: Measurement, window: Window, amount: float) -> float | Absent:
    """Return what was served within a window: requests begun before and ended after it count by their tokens inside.

    Args:
        measurement: the window's.
        window: of a served load.
        amount: what one request does, in the unit that is asked for.
    """
    generated = find_figure(measurement, window, "generated_tokens")
    if isinstance(generated, Absent):
        return generated
    if generated <= 0 or window.end_s <= window.begin_s:
        return Absent("no token arrived in this window, or none could be counted")
    return amount * generated / window.work.tokens


def percentile_of(measurement: Measurement, window: Window, name: str, percent: float) -> float | Absent:
    """Return a percentile of a series, or why there is none."""
    series = find_series(measurement, window, name)
    if isinstance(series, Absent):
        return series
    told = percentile(series.values, percent)
    return Absent(told.absent) if told.value is None else told.value


def idle_power_w(measurement: Measurement) -> float | Absent:
    """Return the idle power of all devices without a context: the trial's own, else by the calibration's."""
    told = measurement.figures.get("idle_power_w")
    if told is None and measurement.ceilings is not None and measurement.ceilings.idle_power_w is not None:
        told = num_devices(measurement) * measurement.ceilings.idle_power_w  # of one such device
    return Absent(measurement.absent.get("idle_power_w", "idle power was not measured")) if told is None else told


def matmul_peak(measurement: Measurement) -> float | Absent:
    """Return the calibrated FLOP/s of the trial's number format, of all its devices, or why there is none."""
    if measurement.ceilings is None:
        return Absent(NOT_CALIBRATED)
    dtype = dtype_of(measurement)
    peak = measurement.ceilings.matmul_peak_flop_per_s.get(dtype)
    return num_devices(measurement) * peak if peak else Absent(f"the calibration has no matrix peak for {dtype}")


def net_bytes(measurement: Measurement, used_bytes: float) -> float | Absent:
    """Return a process's memory, on a CPU less what the process held before the model was built.

    An accelerator holds nothing of the process before the model; a processor holds the interpreter and its libraries.
    """
    devices = measurement.environment.devices
    if not devices or devices[0].kind != "cpu":
        return used_bytes
    baseline_bytes = measurement.figures.get("memory_baseline_bytes")
    if baseline_bytes is None:
        return Absent("memory before the model was built was not recorded, so it cannot be taken off")
    if used_bytes <= baseline_bytes:
        return Absent("the process held no more than before the model was built: memory was given back, or swapped out")
    return used_bytes - baseline_bytes


def quality_window(measurement: Measurement, window: Window) -> Window | Absent:
    """Return the window that judged this measurement's quality, or why there is none; a domain's own is its own."""
    own = window.name == "quality" or window.name.startswith("quality_")
    quality = window if own else measurement.find("quality")
    if quality is not None and quality.outcome == "ok":
        return quality
    return Absent(quality.reason or quality.outcome if quality else "quality was not judged in this trial")


def model_facts(measurement: Measurement) -> ModelFacts | Absent:
    """Return the model's counts, or why there are none."""
    return measurement.model or Absent("the model's counts were not recorded")
