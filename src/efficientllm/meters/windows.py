"""The figures of one window, as pure functions of what a sampler saw."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from efficientllm.devices._contract import THROTTLE_BITS
from efficientllm.meters import external
from efficientllm.meters.energy_budget import counter_figures, cross_check, net_figures, power_figures
from efficientllm.meters.integrate import NotCovered, cut, difference, mean, value_at
from efficientllm.meters.samples import Samples
from efficientllm.records.series import Series

#: What `window_figures` gives back: the cut series, the figures, quantity -> why it is absent.
WindowFigures = tuple[list[Series], dict[str, float], dict[str, str]]

_POWERS = ("power_instant_w", "power_w")  # the present reading first: a trailing average lags at the edges
_ENERGY = ("energy_j", *_POWERS)
_OWN_FIGURES = (*_ENERGY, "throttle_reasons")
_SLOWED = sum(bit for name, bit in THROTTLE_BITS.items() if name != "power_cap")


def window_figures(
    samples: Samples,
    begin_s: float,
    end_s: float,
    *,
    idle_power_w: tuple[float, ...] = (),
    external_idle_w: float | None = None,
) -> WindowFigures:
    """Cut what a sampler saw to a window and sum it up.

    Figures, each with its unit at the end:
        `<quantity>_mean_<unit>`, `<quantity>_peak_<unit>`, `<quantity>_low_<unit>` of what is held or reached
            (`process_memory_mean_bytes`, `clock_low_hz`); the mean weighs by time
        a growing quantity's own name for its growth (`processor_s`)
        energy: see `energy_budget`; net of idle where `idle_power_w` is given; `external` where a meter's file was
        `busy_mean_ratio`, `busy_peak_ratio`: driver's, or processor seconds over the window and the usable cores
        `foreign_busy_ratio`: share of the machine's processors that other processes took
        `throttled_ratio`, `power_capped_ratio`: share of readings with a clock slowed by heat or fault, or by the
            power limit
        `sampler_cost_ratio`: the sampler's own share of the machine's processors

    Args:
        samples: what the sampler saw, on the same clock as the edges.
        begin_s: the window's begin.
        end_s: the window's end.
        idle_power_w: idle power before the trial and, where possible, after it.
        external_idle_w: what an external meter read in that time.

    Returns:
        The series inside the window, the figures, and quantity -> why it is absent here.
    """
    series = dict(samples.series)
    busy = _processor_busy(samples)
    if busy is not None:
        series["busy_ratio"] = busy
    inside = [cut(one, begin_s, end_s) for one in series.values()]
    read = {one.name for one in inside if one.values}
    # what ended later, or is derived here, is no absence of this window
    absent = {name: why for name, why in samples.absent.items() if name not in read}
    absent |= {name: _nothing_inside(samples, name, begin_s, end_s) for name in series if name not in read}
    figures: dict[str, float] = {}
    for name in read - set(_OWN_FIGURES):
        summary = _growth if name in samples.cumulative else _level
        _take(figures, absent, name, partial(summary, series[name], begin_s, end_s))
    figures |= _throttle_figures(series.get("throttle_reasons"), begin_s, end_s)
    _add_energy(series, begin_s, end_s, idle_power_w, figures, absent)
    add_external(series.get(external.NAME), begin_s, end_s, idle_power_w, external_idle_w, figures, absent)
    _add_shares(samples, begin_s, end_s, figures, absent)
    absent |= {name: samples.absent[name] for name in absent if name in samples.absent}  # why it ended says more
    return [one for one in inside if one.values], dict(sorted(figures.items())), absent


def _level(series: Series, begin_s: float, end_s: float) -> dict[str, float]:
    """Return mean, peak and low of a quantity that goes up and down."""
    values = cut(series, begin_s, end_s).values or (value_at(series, begin_s), value_at(series, end_s))
    return {
        _named(series, "mean"): mean(series, begin_s, end_s),
        _named(series, "peak"): max(values),
        _named(series, "low"): min(values),
    }


def _growth(series: Series, begin_s: float, end_s: float) -> dict[str, float]:
    return {series.name: difference(series, begin_s, end_s)}


def _named(series: Series, what: str) -> str:
    """Put a word before the unit: `process_memory_bytes` -> `process_memory_mean_bytes`."""
    stem, _, unit = series.name.rpartition("_")
    return f"{stem}_{what}_{unit}" if stem and series.unit != "count" else f"{series.name}_{what}"


def _add_energy(
    series: dict[str, Series],
    begin_s: float,
    end_s: float,
    idle_power_w: tuple[float, ...],
    figures: dict[str, float],
    absent: dict[str, str],
) -> None:
    counter = series.get("energy_j")
    powers = [series[name] for name in _POWERS if name in series]
    if counter is not None:
        _take(figures, absent, "energy_j", partial(counter_figures, counter, begin_s, end_s))
        _take(figures, absent, "cross_check_ratio", partial(cross_check, counter, powers, begin_s, end_s))
    elif powers:
        absent["energy_counter_j"] = absent.pop("energy_j", "no energy counter") + "; energy_j is integrated power"
        _take(figures, absent, "energy_j", partial(power_figures, powers[0], begin_s, end_s))
    if "energy_j" in figures and idle_power_w:
        figures |= net_figures(figures["energy_j"], end_s - begin_s, idle_power_w)
    elif "energy_j" in figures:
        absent["energy_net_j"] = "idle power was not measured before the window"
    for power in powers:
        inside = cut(power, begin_s, end_s).values
        if inside:
            figures[_named(power, "peak")] = max(inside)


def add_external(
    meter: Series | None,
    begin_s: float,
    end_s: float,
    idle_power_w: tuple[float, ...],
    external_idle_w: float | None,
    figures: dict[str, float],
    absent: dict[str, str],
) -> None:
    """Add what an external meter says of our energy; without one, that its systematic error is not bounded."""
    bound, own_w = "energy_systematic_bound_ratio", figures.get("power_mean_w")
    if own_w is None:
        return
    if meter is None:
        absent[bound] = external.NO_METER
        return
    compare = partial(
        external.external_figures,
        meter,
        begin_s,
        end_s,
        own_w=own_w,
        own_idle_w=sum(idle_power_w) / len(idle_power_w) if idle_power_w else None,
        external_idle_w=external_idle_w,
    )
    _take(figures, absent, bound, compare)


def _add_shares(
    samples: Samples, begin_s: float, end_s: float, figures: dict[str, float], absent: dict[str, str]
) -> None:
    """Add what others and the sampler took of the machine's processors."""
    everything_s = (end_s - begin_s) * samples.processors
    own_s = figures.get("sampler_processor_s")
    if own_s is not None:
        figures["sampler_cost_ratio"] = own_s / everything_s
    if "processor_s" in figures and samples.device.cores:
        figures["busy_mean_ratio"] = figures["processor_s"] / (end_s - begin_s) / samples.device.cores
    machine_s, ours_s = figures.get("machine_processor_s"), figures.get("processor_s")
    if machine_s is None or ours_s is None:
        return
    foreign_s = machine_s - ours_s - (own_s or 0.0)
    if foreign_s < -0.1 * ours_s - 0.02 * samples.processors:  # the kernel counts everybody in ticks of 10 ms
        absent["foreign_busy_ratio"] = "the machine's processor time does not contain this process's, as in a sandbox"
    else:
        figures["foreign_busy_ratio"] = max(0.0, foreign_s) / everything_s


def _throttle_figures(reasons: Series | None, begin_s: float, end_s: float) -> dict[str, float]:
    """Return the shares of readings with a slowed and with a power-capped clock."""
    bits = [int(value) for value in cut(reasons, begin_s, end_s).values] if reasons else []
    if not bits:
        return {}
    return {
        "throttled_ratio": sum(1 for value in bits if value & _SLOWED) / len(bits),
        "power_capped_ratio": sum(1 for value in bits if value & THROTTLE_BITS["power_cap"]) / len(bits),
    }


def _processor_busy(samples: Samples) -> Series | None:
    """Derive a busy share from processor seconds: between two readings, over the usable cores."""
    used = samples.series.get("processor_s")
    if used is None or len(used.values) < 2 or not samples.device.cores:
        return None
    steps = range(1, len(used.values))
    return Series(
        name="busy_ratio",
        unit="ratio",
        at_s=used.at_s[1:],
        values=tuple(
            (used.values[i] - used.values[i - 1]) / (used.at_s[i] - used.at_s[i - 1]) / samples.device.cores
            for i in steps
        ),
        source=f"{used.source} over {samples.device.cores} cores",
        rank=used.rank,
        device=used.device,
    )


def _take(
    figures: dict[str, float], absent: dict[str, str], name: str, summarise: Callable[[], dict[str, float]]
) -> None:
    """Add what `summarise` gives, or the reason why it gives nothing."""
    try:
        figures |= summarise()
    except NotCovered as error:
        absent.setdefault(name, str(error))


def _nothing_inside(samples: Samples, name: str, begin_s: float, end_s: float) -> str:
    """Say why no reading lies inside: it had ended by then, or the window is shorter than the pause between two."""
    if name in samples.absent:
        return samples.absent[name]
    if samples.ended and samples.end_s < begin_s:
        return samples.ended
    return f"no reading fell into this window of {end_s - begin_s:.3g} s; they are {samples.interval_s:.3g} s apart"
