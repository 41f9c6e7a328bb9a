"""Puts a record together from what the worker said and what the sampler saw."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from efficientllm.devices._contract import QUANTITIES
from efficientllm.meters.samples import Samples
from efficientllm.meters.together import figures_of_all
from efficientllm.records import events
from efficientllm.records.card import Card
from efficientllm.records.measurement import Ceilings, DataFacts, ModelFacts
from efficientllm.records.series import Series
from efficientllm.records.window import ELSEWHERE, Caution, Window

#: The window in which the device idles with a context open.
IDLE = "idle"


@dataclass
class Told:
    """All events of one worker, sorted out; times still on the machine's clock.

    Attributes:
        series: by window, name and rank.
    """

    opened: dict[int, events.Opened] = field(default_factory=dict)
    closed: dict[int, events.Closed] = field(default_factory=dict)
    series: dict[tuple[int, str, int], list[events.Values]] = field(default_factory=dict)
    figures: dict[int, dict[str, float]] = field(default_factory=dict)
    missing: dict[int, dict[str, str]] = field(default_factory=dict)
    phases_s: dict[str, float] = field(default_factory=dict)
    model: ModelFacts | None = None
    data: DataFacts | None = None
    ceilings: Ceilings | None = None
    cards: dict[str, Card] = field(default_factory=dict)
    cautions: tuple[Caution, ...] = ()
    end: events.End | None = None


def sort_out(said: list[events.AnyEvent]) -> Told:
    """Group a worker's events by window and kind."""
    told = Told()
    for event in said:
        match event:
            case events.Opened():
                told.opened[event.window] = event
            case events.Closed():
                told.closed[event.window] = event
            case events.Values():
                told.series.setdefault((event.window, event.name, 0), []).append(event)
            case events.Figure():
                told.figures.setdefault(event.window, {})[event.name] = event.value
            case events.Missing():
                told.missing.setdefault(event.window, {})[event.name] = event.reason
            case events.Phase():
                told.phases_s[event.name] = told.phases_s.get(event.name, 0.0) + event.elapsed_s
            case events.Facts():
                told.model, told.data = event.model or told.model, event.data or told.data
                told.ceilings = event.ceilings or told.ceilings
                told.cards.update(event.cards)
                told.cautions += event.cautions
            case events.End():
                told.end = event
            case events.Progress() | events.Begun():
                pass
    return told


def idle_figures(samples: Sequence[Samples], begin_s: float, end_s: float) -> dict[str, float]:
    """Return `idle_power_w`, the mean power of all devices while nothing ran, and `external_idle_power_w`.

    Empty where it is not told.
    """
    if end_s <= begin_s:
        return {}
    _, figures, _ = figures_of_all(samples, begin_s, end_s, [])
    named = {"idle_power_w": "power_mean_w", "external_idle_power_w": "external_power_mean_w"}
    return {name: figures[source] for name, source in named.items() if source in figures}


def start_figures(seen: tuple[Window, ...]) -> dict[str, float]:
    """Return `startup_s`, from the worker's start to its first measured window, and `idle_context_power_w`.

    Start-up holds import, loading, warm-up, compiling and capturing, and the idle time in between.
    """
    figures = {}
    idle = next((window for window in seen if window.name == IDLE), None)
    if idle is not None and "power_mean_w" in idle.figures:
        figures["idle_context_power_w"] = idle.figures["power_mean_w"]
    first = next((window for window in seen if window.name not in (IDLE, "curve")), None)
    if first is not None:
        figures["startup_s"] = first.begin_s
    return figures


def windows(
    told: Told, samples: Sequence[Samples], start_s: float, last_s: float, idle: Sequence[Mapping[str, float]]
) -> tuple[Window, ...]:
    """Return the windows with the samplers' series cut to them, on a clock that starts at `start_s`.

    A window that was never closed (its process was killed) ends at `last_s`. There is a sampler for each device;
    `idle` is what `idle_figures` gave of each.
    """
    return tuple(_window(told, samples, index, start_s, last_s, idle) for index in sorted(told.opened))


def _window(
    told: Told,
    samples: Sequence[Samples],
    index: int,
    start_s: float,
    last_s: float,
    idle: Sequence[Mapping[str, float]],
) -> Window:
    opened = told.opened[index]
    closed = told.closed.get(index) or events.Closed(
        window=index, at_s=last_s, outcome="crashed", reason="the process ended inside this window"
    )
    sampled, figures, absent = figures_of_all(samples, opened.at_s, closed.at_s, idle)
    elsewhere = told.missing.get(index, {}).get(ELSEWHERE)
    if elsewhere:
        absent = dict.fromkeys((*QUANTITIES, *figures, *absent), elsewhere)
        sampled, figures = [], {}
    own = tuple(_joined(parts, rank) for (window, _, rank), parts in told.series.items() if window == index)
    return Window(
        name=opened.name,
        coordinates=opened.coordinates,
        outcome=closed.outcome,
        reason=closed.reason,
        begin_s=opened.at_s - start_s,
        end_s=closed.at_s - start_s,
        work=opened.work,
        series=tuple(_shifted(series, start_s) for series in (*own, *sampled)),
        figures={**figures, **told.figures.get(index, {})},
        absent={**absent, **told.missing.get(index, {})},
    )


def _joined(parts: list[events.Values], rank: int) -> Series:
    first = parts[0]
    return Series(
        name=first.name,
        unit=first.unit,
        source=first.source,
        rank=rank,
        at_s=tuple(at for part in parts for at in part.at_s),
        values=tuple(value for part in parts for value in part.values),
    )


def _shifted(series: Series, start_s: float) -> Series:
    """Move a series to the trial's clock; readings that are no number (a sensor had nothing to say) are left out."""
    points = [(at, value) for at, value in zip(series.at_s, series.values, strict=True) if math.isfinite(value)]
    # A microsecond is finer than any edge that is measured here, and rounding halves the record's size.
    at_s = tuple(round(at - start_s, 6) for at, _ in points)
    return Series(
        name=series.name,
        unit=series.unit,
        at_s=at_s,
        values=tuple(value for _, value in points),
        source=series.source,
        rank=series.rank,
        device=series.device,
    )
