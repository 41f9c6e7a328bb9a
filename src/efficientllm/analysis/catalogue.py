"""All metrics of the folder, loaded once, in the order of a table's columns."""

from __future__ import annotations

import functools

from efficientllm import catalog, registry
from efficientllm.analysis.metrics._contract import GROUPS, MetricEntry


@functools.cache
def entries() -> tuple[MetricEntry, ...]:
    """Return every metric, by group and place; counts that are only stated come last.

    >>> [entry.column.key for entry in entries()][:2]
    ['memory_mean', 'memory_peak']
    """
    loaded: list[MetricEntry] = [registry.load("metric", name) for name in catalog.names("metric")]
    return tuple(sorted(loaded, key=_place))


@functools.cache
def headline(window: str) -> tuple[MetricEntry, ...]:
    """Return the one metric of each group that heads a window's table.

    >>> [entry.column.key for entry in headline("decode")]  # doctest: +NORMALIZE_WHITESPACE
    ['memory_mean', 'mbu', 'latency_median', 'tokens_per_s', 'energy_per_token', 'compression_resident',
     'bits_per_byte']
    """
    return tuple(entry for entry in entries() if window in entry.headline)


@functools.cache
def applicable(window: str) -> tuple[MetricEntry, ...]:
    """Return all metrics that a window can have, counts of the model left out."""
    return tuple(entry for entry in entries() if window in entry.windows and entry.group in GROUPS)


def entry_of(key: str) -> MetricEntry | None:
    """Return the metric of this key, or None for a column that no file here makes."""
    return next((entry for entry in entries() if entry.column.key == key), None)


def judge_of(claim: str, window: str) -> str:
    """Return the key of the metric that judges a word of a card's claims in a window, empty where none does.

    >>> judge_of("memory", "decode"), judge_of("compute", "decode")
    ('memory_mean', 'flops_per_token')
    """
    own = [entry for entry in applicable(window) if entry.judges == claim]
    heads = [entry for entry in headline(window) if entry.group == claim]
    return next((entry.column.key for entry in (*own, *heads)), "")


def group_of(key: str) -> str:
    """Return which of the six metrics (or quality) a column belongs to; a foreign column is a group of its own.

    >>> group_of("mbu"), group_of("my_own")
    ('compute', 'my_own')
    """
    entry = entry_of(key)
    return entry.group if entry else key


def _place(entry: MetricEntry) -> tuple[int, int, str]:
    group = GROUPS.index(entry.group) if entry.group in GROUPS else len(GROUPS)
    return group, entry.order, entry.column.key
