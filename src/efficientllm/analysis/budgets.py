"""Loss at equal tokens, at equal time and at equal joules: what a technique learns from the same means.

The means are known only where the others are: the common budget is the least that any run of the group has spent in
the end, and each run's loss is read off its own curve there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from efficientllm.analysis.catalogue import entry_of
from efficientllm.analysis.curve import TrainingCurve, training_curve, why_no_time
from efficientllm.analysis.group import Group, conditions
from efficientllm.analysis.metrics._contract import Absent, MetricEntry
from efficientllm.analysis.metrics._reading import why_absent
from efficientllm.analysis.rows import measured_row, seen_in
from efficientllm.analysis.section import is_ranked, judged, measured
from efficientllm.analysis.table import Column, Section
from efficientllm.analysis.words import EQUAL_BUDGETS
from efficientllm.records.measurement import Measurement
from efficientllm.records.settings import PretrainSettings
from efficientllm.records.window import Window
from efficientllm.units import quantity_text

#: What can be spent: word, unit of the heading, the curve's series of it.
_SPENT: tuple[tuple[str, str, Callable[[TrainingCurve], Sequence[float]]], ...] = (
    ("tokens", "tokens", lambda curve: curve.tokens),
    ("time", "s", lambda curve: curve.seconds),
    ("energy", "j", lambda curve: curve.joules),
)
_TO_LOSS = ("time_to_loss_s", "energy_to_loss_j", "flops_to_loss")


def budget_section(group: Group) -> Section | None:
    """Return the section of a group of training runs, or None where fewer than two rows have a curve."""
    window = Window(name="train")
    records = {found[0].trial.technique(): found for found in group.rows.values()}
    seen = {name: found for name, of in records.items() if (found := seen_in(of, window))}
    counted = [record for found in seen.values() for record, _ in found]
    curves = {record.id: curve for record in counted if (curve := training_curve(record)) is not None}
    if len({record.trial.technique() for record in counted if record.id in curves}) < 2:
        return None
    metrics = [*_at_equal(curves), *_beside(counted)]
    table, floored = measured(group, seen, metrics)
    if is_ranked(group):
        table = judged(group, table, metrics, floored, detail=False)
    return Section(
        stage=group.stage,
        window=EQUAL_BUDGETS,
        columns=tuple(entry.column for entry in metrics),
        rows=tuple(measured_row(records[name], seen[name], table[name], {}, None) for name in seen),
        conditions=conditions(group),
    )


def _at_equal(curves: Mapping[str, TrainingCurve]) -> list[MetricEntry]:
    """Return a metric for each kind of means; it knows the group's budget."""
    entries = []
    for word, unit, spent_of in _SPENT:
        ends = [spent[-1] for curve in curves.values() if (spent := spent_of(curve))]
        budget = min(ends) if ends else None
        amount = f"equal {word}" if budget is None else quantity_text(budget, unit) + " tokens" * (unit == "tokens")
        column = Column(
            key=f"loss_at_equal_{word}",
            title=f"Loss at {amount}",
            unit="nats/token",
            better="low",
            meaning=f"training loss (mean of the last 2 % of steps) when every row had spent the same {word}",
        )
        measure = _reader(curves, spent_of, budget)
        entries.append(MetricEntry(column=column, group="quality", windows=("train",), measure=measure, margin=0.01))
    return entries


def _reader(
    curves: Mapping[str, TrainingCurve], spent_of: Callable[[TrainingCurve], Sequence[float]], budget: float | None
) -> Callable[[Measurement, Window], float | Absent]:
    def read(measurement: Measurement, window: Window) -> float | Absent:
        curve = curves.get(measurement.id)
        if curve is None:
            return Absent("the loss of each step was not recorded")
        spent, resumed = spent_of(curve), why_no_time(measurement)
        if not spent and resumed:
            return Absent(resumed)
        if budget is None or not spent:
            return why_absent(measurement, window, "energy_j")
        return curve.loss_at(spent, budget)

    return read


def _beside(records: Sequence[Measurement]) -> list[MetricEntry]:
    """Return the metrics that stand beside: held-out and outside loss and, if one is stated, the way to a loss."""
    keys = ["bits_per_byte"]
    keys += ["bits_per_byte_outside"] if any(record.find("quality_outside") for record in records) else []
    settings = records[0].trial.settings
    keys += _TO_LOSS if isinstance(settings, PretrainSettings) and settings.target_loss else []
    return [entry for key in keys if (entry := entry_of(key)) is not None]
