"""The tables that `query` reads, and how a measurement fills them; `views` says what is asked of most of them.

A measurement has a number (`measurement`) that all tables share, a window its place in the measurement (`window`), so
that tables join with `JOIN measurements USING (measurement)` and `JOIN windows USING (measurement, window)`. In
`figure_rows` a window of NULL means the whole trial. Columns of several values (`axes`, `settings`) are JSON. Every
column says what it is: `efficientllm query --tables` prints it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from efficientllm.records.measurement import Measurement
from efficientllm.records.series import Series
from efficientllm.records.window import Window
from efficientllm.store.attempts import attempt_of

#: Rises with every change of the tables below, or of the views; an index of another version is built anew.
INDEX_VERSION = 2

#: A table's row: column -> value.
Row = dict[str, Any]


@dataclass(frozen=True)
class Column:
    """One column: its sqlite type, what it means, its base unit (empty for words), and how a record gives it."""

    kind: str
    meaning: str
    unit: str = ""
    read: Callable[[Any], Any] | None = None


_Columns = dict[str, Column]


def _json(value: object) -> str:
    return msgspec.json.encode(value, order="deterministic").decode()


def _text(meaning: str, read: Callable[[Any], Any]) -> Column:
    return Column("TEXT", meaning, "", read)


def _count(meaning: str, read: Callable[[Any], Any], unit: str = "count") -> Column:
    return Column("INTEGER", meaning, unit, read)


def _real(meaning: str, unit: str, read: Callable[[Any], Any]) -> Column:
    return Column("REAL", meaning, unit, read)


_MEASUREMENT: _Columns = {
    "id": _text("the measurement's id: trial, environment, attempt", lambda m: m.id),
    "trial": _text("hash of what was measured", lambda m: m.trial.id),
    "environment": _text("hash of machine, libraries and measuring code", lambda m: m.environment.id),
    "machine": _text("hash of devices, driver, Python, torch: what compares", lambda m: m.environment.machine_id),
    "attempt": _count("which attempt at this trial here, from 0", attempt_of),
    "stage": _text("the recipe's stage", lambda m: m.trial.stage),
    "workload": _text("pretrain, finetune, inference, serve …", lambda m: m.trial.settings_workload()),
    "technique": _text("the row's name: the values of its axes", lambda m: m.trial.technique()),
    "axes": _text("axis -> value, as JSON", lambda m: _json(m.trial.axes)),
    "baseline": _count("1 where it is what others are compared with", lambda m: m.trial.baseline, "0 or 1"),
    "outcome": _text("ok, oom, unsupported, diverged, invalid, crashed, interrupted", lambda m: m.outcome),
    "reason": _text("why it is not ok", lambda m: m.reason),
    "invalid_codes": _text("physics checks that failed, as JSON", lambda m: _json(m.invalid_codes)),
    "cautions": _text("codes of what a reader must know, as JSON", lambda m: _json([c.code for c in m.cautions])),
    "repeat": _count("which round, from 0", lambda m: m.trial.repeat),
    "seed": _count("seeds weights and data order", lambda m: m.trial.seed, "setting"),
    "parent": _text("trial whose artifact this one takes", lambda m: m.trial.parent),
    "protocol": _text("standard, smoke or inline", lambda m: m.trial.protocol.name),
    "protocol_version": _count("figures of other versions do not compare", lambda m: m.trial.protocol_version),
    "device": _text("kind of device: cpu or cuda", lambda m: m.trial.device),
    "device_name": _text(
        "the first device's name", lambda m: m.environment.devices[0].name if m.environment.devices else None
    ),
    "host": _text("the machine's host name", lambda m: m.environment.host),
    "started_at": _text("when it was started, UTC", lambda m: m.started_at),
    "software_version": _text("version of efficientllm", lambda m: m.software_version),
    "schema": _count("version of the stored form", lambda m: m.schema),
    "git_commit": _text("commit of the code that measured", lambda m: m.environment.git_commit),
    "git_dirty": _count("1 where that code was changed since", lambda m: m.environment.git_dirty, "0 or 1"),
    "parameters_total": _count("stored parameters", lambda m: m.model.parameters_total if m.model else None),
    "parameters_active": _count(
        "parameters that one token uses", lambda m: m.model.parameters_active if m.model else None
    ),
    "settings": _text("all settings, as JSON", lambda m: _json(m.trial.settings)),
}
_WINDOW: _Columns = {
    "name": _text("train, prefill, decode, quality …", lambda w: w.name),
    "label": _text("name and coordinates: decode batch=1 tokens=512", lambda w: w.label()),
    "coordinates": _text("batch, tokens …, as JSON", lambda w: _json(w.coordinates)),
    "outcome": _text("ok, or how it ended", lambda w: w.outcome),
    "reason": _text("why it is not ok", lambda w: w.reason),
    "begin_s": _real("its begin on the measurement's clock", "s", lambda w: w.begin_s),
    "end_s": _real("its end on the measurement's clock", "s", lambda w: w.end_s),
    "tokens": _count("tokens of one step", lambda w: w.work.tokens),
    "samples": _count("rows of one step", lambda w: w.work.samples),
    "model_flops": _real("operations of one step that the model needs", "flop", lambda w: w.work.model_flops),
    "moved_bytes": _real("fewest bytes that one step must move", "bytes", lambda w: w.work.moved_bytes),
}
_SERIES: _Columns = {
    "name": _text("the quantity, with its unit at the end", lambda s: s.name),
    "unit": _text("base unit of the values", lambda s: s.unit),
    "source": _text("what read it", lambda s: s.source),
    "rank": _count("rank of the process", lambda s: s.rank),
    "device": _count("index of the device", lambda s: s.device),
    "n": _count("how many values the record holds", lambda s: len(s.values)),
    "mean": _real(
        "plain mean of the values", "the row's", lambda s: math.fsum(s.values) / len(s.values) if s.values else None
    ),
    "min": _real("smallest value", "the row's", lambda s: min(s.values, default=None)),
    "max": _real("largest value", "the row's", lambda s: max(s.values, default=None)),
}
_NUMBER = Column("INTEGER", "the measurement's number in this index; joins tables", "count")
_PLACE = Column("INTEGER", "the window's place in its measurement, from 0; NULL for the whole trial", "count")
_OF: _Columns = {"measurement": _NUMBER, "window": _PLACE}

#: table -> column; those whose names end with `_rows` are read through the views.
TABLES: dict[str, _Columns] = {
    "files": {
        "file": Column("TEXT PRIMARY KEY", "the file's name"),
        "size_bytes": Column("INTEGER", "its size", "bytes"),
        "mtime_ns": Column("INTEGER", "when it was last changed", "ns"),
        "measurement": _NUMBER,
        "problem": Column("TEXT", "why it is no readable measurement, else NULL"),
    },
    "measurements": {
        "measurement": Column("INTEGER PRIMARY KEY", _NUMBER.meaning, _NUMBER.unit),
        "study": Column("TEXT", "the study's name"),
        **_MEASUREMENT,
    },
    "windows": _OF | _WINDOW,
    "figure_rows": _OF | {"name": Column("TEXT", "the figure's name"), "value": Column("REAL", "its value")},
    "metric_rows": _OF
    | {
        "metric": Column("TEXT", "the metric's name"),
        "value": Column("REAL", "its value"),
        "absent": Column("TEXT", "why there is none"),
    },
    "series_rows": _OF | _SERIES,
}
#: table -> what a row is.
MEANINGS = {
    "files": "one row for each stored file, readable or not",
    "measurements": "one row for each trial in each environment: the outcome and all that identifies it",
    "windows": "one row for each measured span: what one step does, and how it ended",
}


def statements() -> Iterator[str]:
    """Yield the SQL that makes the empty tables."""
    for table, columns in TABLES.items():
        yield f"CREATE TABLE {table} ({', '.join(f'{name} {column.kind}' for name, column in columns.items())})"
        if "window" in columns:
            yield f"CREATE INDEX {table}_of ON {table} (measurement, window)"


def measurement_row(number: int, study: str, measurement: Measurement) -> Row:
    """Return the row of a measurement in `measurements`."""
    return {"measurement": number, "study": study} | _read(_MEASUREMENT, measurement)


def window_row(number: int, place: int, window: Window) -> Row:
    """Return the row of a measurement's window in `windows`; `place` counts from 0."""
    return {"measurement": number, "window": place} | _read(_WINDOW, window)


def series_row(number: int, place: int, series: Series) -> Row:
    """Return the row of a window's series in `series_rows`: how many values, their mean and range."""
    return {"measurement": number, "window": place} | _read(_SERIES, series)


def figure_rows(number: int, place: int | None, figures: Mapping[str, float]) -> list[Row]:
    """Return the rows of figures; `place` is None for those of the whole trial."""
    return [{"measurement": number, "window": place, "name": name, "value": value} for name, value in figures.items()]


def metric_rows(number: int, place: int, metrics: Mapping[str, float | str]) -> list[Row]:
    """Return the rows of metrics: a number is a value, words are the reason why there is none."""
    return [
        {"measurement": number, "window": place, "metric": name}
        | ({"value": None, "absent": told} if isinstance(told, str) else {"value": told, "absent": None})
        for name, told in metrics.items()
    ]


def _read(columns: _Columns, record: object) -> Row:
    return {name: column.read(record) for name, column in columns.items() if column.read is not None}
