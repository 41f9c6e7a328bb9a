"""From the records of a group to cells: values by round, interval, verdict against the baseline, rank."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from efficientllm.analysis.metrics._contract import Absent, MetricEntry
from efficientllm.analysis.table import Cell
from efficientllm.records.measurement import Measurement
from efficientllm.records.window import Window
from efficientllm.stats.compare import ranks, verdicts
from efficientllm.stats.interval import process_interval

#: A record and its window.
Seen = tuple[Measurement, Window]

#: A table with more rows than this has no ranks: all pairs are compared, and so many comparisons show nothing.
MOST_RANKED = 64


def measure(entry: MetricEntry, seen: Sequence[Seen], baseline: Mapping[int, Measurement]) -> Cell:
    """Return one row's cell of one metric: values by round, estimate and interval, or the reason why there is none.

    Args:
        entry: the metric.
        seen: the row's records with the section's window.
        baseline: round -> the baseline's record.
    """
    values: dict[int, float] = {}
    reasons: Counter[str] = Counter()
    for measurement, window in seen:
        value = entry.value(measurement, window, baseline.get(measurement.trial.repeat))
        if isinstance(value, Absent):
            reasons[value.reason] += 1
        else:
            values[measurement.trial.repeat] = float(value)
    if not values:
        return Cell(absent=reasons.most_common(1)[0][0] if reasons else "no record counts here")
    interval = process_interval(list(values.values()))
    return Cell(
        value=interval.estimate,
        low=interval.low,
        high=interval.high,
        why_no_interval=interval.why_no_interval,
        values=values,
    )


def judge(
    entry: MetricEntry, cells: Mapping[str, Cell], baseline: str | None, *, ranked: bool = True
) -> dict[str, Cell]:
    """Return the cells of one metric with verdicts against the baseline's, ratios, and ranks.

    Args:
        entry: the metric; one without a better side gets neither.
        cells: row -> cell; absent ones are left as they are.
        baseline: name of the baseline's row, or None.
        ranked: whether all pairs are compared for ranks.
    """
    rows = {name: cell.values for name, cell in cells.items() if cell.value is not None}
    better = entry.column.better
    if not better:
        return dict(cells)
    said = verdicts(rows, baseline, better, entry.margin) if baseline is not None else {}
    places = ranks(rows, better, margin=entry.margin) if ranked and len(rows) <= MOST_RANKED else {}
    judged = dict(cells)
    for name, verdict in said.items():
        found = verdict.comparison
        judged[name] = replace(
            judged[name], verdict=verdict.word, ratio=found.ratio, ratio_low=found.low, ratio_high=found.high
        )
    for name, place in places.items():
        judged[name] = replace(judged[name], rank=place.rank, tied=place.tied)
    return judged
