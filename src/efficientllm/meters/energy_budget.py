"""Energy of a window from a counter that moves in steps, with what may be wrong with it.

        begin                                                       end
          │   ┌── first change seen          last change seen ──┐    │
    ──────┼───▼──────────────────────────────────────────────────▼───┼────
              └────────── joules over seconds = mean power ──────┘
                                                 mean power × (end - begin) = energy_j

A counter is read every so often and moves every so often (100 ms on an H200), so its value at the window's edges is
not known. Between two changes that were seen it is, to the pause between two readings. The window's edges therefore
snap inwards to such changes, and the mean power in between stands for the whole window.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from efficientllm.meters.integrate import NotCovered, cut, integral
from efficientllm.records.series import Series

#: A window with less of both carries its counter's resolution.
LONG_WINDOW_S = 5.0
MANY_UPDATES = 50
_EDGE_STEPS = 5  # a single step's length is seen only to the pause between two readings


@dataclass(frozen=True)
class _Change:
    """A reading that differed from the one before: the counter moved within the last `pause_s` seconds."""

    at_s: float
    joules: float
    pause_s: float


def counter_figures(counter: Series, begin_s: float, end_s: float) -> dict[str, float]:
    """Return a window's energy by its counter.

    Figures: `energy_j` of the whole window; `power_mean_w`; `energy_snapped_j` over `energy_snapped_s`, what the
    counter itself said; `num_energy_updates`, how often it moved; `edge_error_j`, at both edges the pause between two
    readings times the power there, and the part outside the snapped edges times how far the power there is from the
    mean; and where the window is short (under 5 s and under 50 updates) `energy_resolution_j`, the largest step.

    Raises:
        NotCovered: fewer than two changes lie inside the window, or the counter went backwards.
    """
    changes = [c for c in _changes(counter) if begin_s <= c.at_s <= end_s]
    if len(changes) < 2:
        raise NotCovered(
            f"the energy counter moved {len(changes)} time(s) in this window of {end_s - begin_s:.3g} s; "
            f"it takes two: measure longer"
        )
    steps = [(b.joules - a.joules, b.at_s - a.at_s) for a, b in itertools.pairwise(changes)]
    if min(joules for joules, _ in steps) < 0:
        raise NotCovered("the energy counter went backwards: the driver was loaded anew")
    snapped_j, snapped_s = changes[-1].joules - changes[0].joules, changes[-1].at_s - changes[0].at_s
    power_w = snapped_j / snapped_s
    first_w, last_w = _mean_power_w(steps[:_EDGE_STEPS]), _mean_power_w(steps[-_EDGE_STEPS:])
    figures = {
        "energy_j": power_w * (end_s - begin_s),
        "power_mean_w": power_w,
        "energy_snapped_j": snapped_j,
        "energy_snapped_s": snapped_s,
        "num_energy_updates": float(len(steps)),
        "edge_error_j": changes[0].pause_s * first_w
        + changes[-1].pause_s * last_w
        + (changes[0].at_s - begin_s) * abs(first_w - power_w)
        + (end_s - changes[-1].at_s) * abs(last_w - power_w),
    }
    if end_s - begin_s < LONG_WINDOW_S and len(steps) < MANY_UPDATES:
        figures["energy_resolution_j"] = max(joules for joules, _ in steps)
    return figures


def power_figures(power: Series, begin_s: float, end_s: float) -> dict[str, float]:
    """Return a window's energy by integrated power, for devices without a counter: `energy_j`, `power_mean_w`.

    Raises:
        NotCovered: the readings leave more than a tenth of the window uncovered.
    """
    energy_j = integral(power, begin_s, end_s)
    return {"energy_j": energy_j, "energy_integrated_j": energy_j, "power_mean_w": energy_j / (end_s - begin_s)}


def cross_check(counter: Series, powers: list[Series], begin_s: float, end_s: float) -> dict[str, float]:
    """Return `energy_integrated_j` and `cross_check_ratio`, integrated power over the counter's energy, minus 1.

    Args:
        counter: the energy counter.
        powers: power readings, the preferred first: a present reading before a trailing average, which lags.
        begin_s: the window's begin.
        end_s: the window's end.

    Raises:
        NotCovered: no power reading covers the same scope and the window, or the counter's figure is absent.
    """
    alike = [power for power in powers if _scope(power) == _scope(counter) and len(cut(power, begin_s, end_s).values)]
    if not alike:
        raise NotCovered(f"no power reading of the counter's scope ({_scope(counter) or 'not told'})")
    energy_j = counter_figures(counter, begin_s, end_s)["energy_j"]
    integrated_j = integral(alike[0], begin_s, end_s)
    if not energy_j:
        raise NotCovered("the counter saw no energy")
    return {"energy_integrated_j": integrated_j, "cross_check_ratio": integrated_j / energy_j - 1}


def net_figures(energy_j: float, elapsed_s: float, idle_power_w: tuple[float, ...]) -> dict[str, float]:
    """Return `energy_net_j`, energy without what the idle device would have drawn, and `idle_drift_j`.

    Args:
        energy_j: gross energy of the window.
        elapsed_s: its length.
        idle_power_w: idle power without a context, measured before the trial and, where possible, after it too.

    >>> net_figures(1000.0, 10.0, (50.0, 52.0))
    {'energy_net_j': 490.0, 'idle_drift_j': 20.0}
    """
    idle_w = sum(idle_power_w) / len(idle_power_w)
    figures = {"energy_net_j": energy_j - idle_w * elapsed_s}
    if len(idle_power_w) > 1:
        figures["idle_drift_j"] = (max(idle_power_w) - min(idle_power_w)) * elapsed_s
    return figures


def _mean_power_w(steps: list[tuple[float, float]]) -> float:
    """Return joules over seconds of some steps."""
    return sum(joules for joules, _ in steps) / sum(seconds for _, seconds in steps)


def _changes(counter: Series) -> list[_Change]:
    at_s, values = counter.at_s, counter.values
    return [
        _Change(at_s[i], values[i], at_s[i] - at_s[i - 1]) for i in range(1, len(values)) if values[i] != values[i - 1]
    ]


def _scope(series: Series) -> str:
    """Return what a source covers, as its sensor says: `nvml.total_energy (scope: gpu)`."""
    return series.source.partition("(scope: ")[2].rstrip(")")
