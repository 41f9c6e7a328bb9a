"""The tables that `query` reads, and how a measurement fills them.

A measurement has a number (`measurement`) that all tables share, a window its place in the measurement (`window`), so
that tables join with `JOIN measurements USING (measurement)` and `JOIN windows USING (measurement, window)`. In
`figures` a window of NULL means the whole trial. Columns of several values (`axes`, `settings`) are JSON.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from efficientllm.records.measurement import Measurement
from efficientllm.records.series import Series
from efficientllm.records.window import Window
from efficientllm.store.attempts import attempt_of

#: Rises with every change of the tables below; an index of another version is built anew.
INDEX_VERSION = 1

#: A table's row: column -> value.
Row = dict[str, Any]
_Columns = dict[str, tuple[str, Callable[[Any], Any]]]


def _json(value: object) -> str:
    return msgspec.json.encode(value, order="deterministic").decode()


_MEASUREMENT: _Columns = {
    "id": ("TEXT", lambda m: m.id),
    "trial": ("TEXT", lambda m: m.trial.id),
    "environment": ("TEXT", lambda m: m.environment.id),
    "machine": ("TEXT", lambda m: m.environment.machine_id),
    "attempt": ("INTEGER", attempt_of),
    "stage": ("TEXT", lambda m: m.trial.stage),
    "workload": ("TEXT", lambda m: m.trial.settings_workload()),
    "technique": ("TEXT", lambda m: m.trial.technique()),
    "axes": ("TEXT", lambda m: _json(m.trial.axes)),
    "baseline": ("INTEGER", lambda m: m.trial.baseline),
    "outcome": ("TEXT", lambda m: m.outcome),
    "reason": ("TEXT", lambda m: m.reason),
    "invalid_codes": ("TEXT", lambda m: _json(m.invalid_codes)),
    "cautions": ("TEXT", lambda m: _json([caution.code for caution in m.cautions])),
    "repeat": ("INTEGER", lambda m: m.trial.repeat),
    "seed": ("INTEGER", lambda m: m.trial.seed),
    "parent": ("TEXT", lambda m: m.trial.parent),
    "protocol": ("TEXT", lambda m: m.trial.protocol.name),
    "protocol_version": ("INTEGER", lambda m: m.trial.protocol_version),
    "device": ("TEXT", lambda m: m.trial.device),
    "device_name": ("TEXT", lambda m: m.environment.devices[0].name if m.environment.devices else None),
    "host": ("TEXT", lambda m: m.environment.host),
    "started_at": ("TEXT", lambda m: m.started_at),
    "software_version": ("TEXT", lambda m: m.software_version),
    "schema": ("INTEGER", lambda m: m.schema),
    "git_commit": ("TEXT", lambda m: m.environment.git_commit),
    "git_dirty": ("INTEGER", lambda m: m.environment.git_dirty),
    "parameters_total": ("INTEGER", lambda m: m.model.parameters_total if m.model else None),
    "parameters_active": ("INTEGER", lambda m: m.model.parameters_active if m.model else None),
    "settings": ("TEXT", lambda m: _json(m.trial.settings)),
}
_WINDOW: _Columns = {
    "name": ("TEXT", lambda w: w.name),
    "label": ("TEXT", lambda w: w.label()),
    "coordinates": ("TEXT", lambda w: _json(w.coordinates)),
    "outcome": ("TEXT", lambda w: w.outcome),
    "reason": ("TEXT", lambda w: w.reason),
    "begin_s": ("REAL", lambda w: w.begin_s),
    "end_s": ("REAL", lambda w: w.end_s),
    "tokens": ("INTEGER", lambda w: w.work.tokens),
    "samples": ("INTEGER", lambda w: w.work.samples),
    "model_flops": ("REAL", lambda w: w.work.model_flops),
    "moved_bytes": ("REAL", lambda w: w.work.moved_bytes),
}
_SERIES: _Columns = {
    "name": ("TEXT", lambda s: s.name),
    "unit": ("TEXT", lambda s: s.unit),
    "source": ("TEXT", lambda s: s.source),
    "rank": ("INTEGER", lambda s: s.rank),
    "device": ("INTEGER", lambda s: s.device),
    "n": ("INTEGER", lambda s: len(s.values)),
    "mean": ("REAL", lambda s: math.fsum(s.values) / len(s.values) if s.values else None),
    "min": ("REAL", lambda s: min(s.values, default=None)),
    "max": ("REAL", lambda s: max(s.values, default=None)),
}


def _types(columns: _Columns) -> dict[str, str]:
    return {name: kind for name, (kind, _) in columns.items()}


_OF = {"measurement": "INTEGER", "window": "INTEGER"}
#: table -> column -> type
TABLES: dict[str, dict[str, str]] = {
    "files": {"file": "TEXT PRIMARY KEY", "size_bytes": "INTEGER", "mtime_ns": "INTEGER", "measurement": "INTEGER"}
    | {"problem": "TEXT"},
    "measurements": {"measurement": "INTEGER PRIMARY KEY", "study": "TEXT"} | _types(_MEASUREMENT),
    "windows": _OF | _types(_WINDOW),
    "figures": _OF | {"name": "TEXT", "value": "REAL"},
    "metrics": _OF | {"name": "TEXT", "value": "REAL"},
    "series": _OF | _types(_SERIES),
}


def statements() -> Iterator[str]:
    """Yield the SQL that makes the empty tables."""
    for table, columns in TABLES.items():
        yield f"CREATE TABLE {table} ({', '.join(f'{name} {kind}' for name, kind in columns.items())})"
        if "window" in columns:
            yield f"CREATE INDEX {table}_of ON {table} (measurement, window)"


def measurement_row(number: int, study: str, measurement: Measurement) -> Row:
    """Return the row of a measurement in `measurements`."""
    return {"measurement": number, "study": study} | _read(_MEASUREMENT, measurement)


def window_row(number: int, place: int, window: Window) -> Row:
    """Return the row of a measurement's window in `windows`; `place` counts from 0."""
    return {"measurement": number, "window": place} | _read(_WINDOW, window)


def series_row(number: int, place: int, series: Series) -> Row:
    """Return the row of a window's series in `series`: how many values, their mean and range."""
    return {"measurement": number, "window": place} | _read(_SERIES, series)


def figure_rows(number: int, place: int | None, figures: Mapping[str, float]) -> list[Row]:
    """Return the rows of figures or metrics; `place` is None for those of the whole trial."""
    return [{"measurement": number, "window": place, "name": name, "value": value} for name, value in figures.items()]


def _read(columns: _Columns, record: object) -> Row:
    return {name: read(record) for name, (_, read) in columns.items()}
