"""What `query` is asked of: views that say of each figure whose it is, with every column described.

A view's column is one of a table's own, or of what stands beside it: the measurement it belongs to, its window, and the
metric's description, which analysis hands in (`metric_info`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from efficientllm.store.schema import MEANINGS, TABLES, Column, Row

#: Of the measurement, in every view.
_IDENTITY = (
    "id",
    "study",
    "stage",
    "technique",
    "axes",
    "baseline",
    "repeat",
    "outcome",
    "invalid_codes",
    "machine",
    "device_name",
)
#: Column of a view -> column of the window.
_PLACE = {"window_name": "name", "label": "label", "coordinates": "coordinates", "window_outcome": "outcome"}

#: What analysis says of each metric.
METRIC_INFO: dict[str, Column] = {
    "metric": Column("TEXT PRIMARY KEY", "the metric's name"),
    "title": Column("TEXT", "its heading in tables"),
    "kind": Column("TEXT", "memory, compute, latency, throughput, energy, compression, quality or model"),
    "unit": Column("TEXT", "base unit of its values"),
    "better": Column("TEXT", "low or high; empty where neither is"),
    "meaning": Column("TEXT", "what it is, in a sentence"),
}


@dataclass(frozen=True, kw_only=True)
class View:
    """A view: what a row is, and column -> (SQL, description)."""

    meaning: str
    rows: str
    columns: dict[str, tuple[str, Column]]
    beside: str = ""

    def sql(self, name: str) -> str:
        """Return the statement that makes the view."""
        told = ", ".join(f"{sql} AS {column}" for column, (sql, _) in self.columns.items())
        return (
            f"CREATE VIEW {name} AS SELECT {told} FROM {self.rows} r JOIN measurements m USING (measurement) "
            f"LEFT JOIN windows w ON w.measurement = r.measurement AND w.window = r.window {self.beside}".rstrip()
        )


def _view(meaning: str, rows: str, own: Sequence[str]) -> View:
    columns = {name: (f"r.{name}", TABLES[rows][name]) for name in ("measurement", "window")}
    columns |= {name: (f"m.{name}", TABLES["measurements"][name]) for name in _IDENTITY}
    columns |= {name: (f"w.{of}", TABLES["windows"][of]) for name, of in _PLACE.items()}
    columns |= {name: (f"r.{name}", TABLES[rows][name]) for name in own}
    return View(meaning=meaning, rows=rows, columns=columns)


def _metrics() -> View:
    plain = _view("one row for each metric of each window, with its value or why it is absent", "metric_rows",
                  ("metric", "value", "absent"))  # fmt: skip
    value = ("r.value", Column("REAL", "the metric's value, NULL where it is absent", "the row's"))
    info = {name: (f"i.{name}", METRIC_INFO[name]) for name in ("unit", "better", "kind")}
    columns = plain.columns | {"value": value} | info
    beside = "LEFT JOIN metric_info i ON i.metric = r.metric"
    return View(meaning=plain.meaning, rows=plain.rows, columns=columns, beside=beside)


def _figures() -> View:
    plain = _view("one row for each single number that a trial or a window recorded", "figure_rows", ("name", "value"))
    value = ("r.value", Column("REAL", "the figure's value", "in its name"))
    return View(meaning=plain.meaning, rows=plain.rows, columns=plain.columns | {"value": value})


VIEWS: dict[str, View] = {
    "metrics": _metrics(),
    "figures": _figures(),
    "series": _view(
        "one row for each recorded series: how many values, mean and range (the record has them all)",
        "series_rows",
        [name for name in TABLES["series_rows"] if name not in ("measurement", "window")],
    ),
}


@dataclass(frozen=True, kw_only=True)
class Described:
    """What can be asked: what a row is, and column -> description."""

    meaning: str
    columns: dict[str, Column]


def described() -> dict[str, Described]:
    """Return all that can be asked, the views first.

    >>> list(described())
    ['metrics', 'figures', 'series', 'measurements', 'windows', 'metric_info', 'files']
    """
    views = {
        name: Described(meaning=view.meaning, columns={column: told for column, (_, told) in view.columns.items()})
        for name, view in VIEWS.items()
    }
    tables = {name: Described(meaning=MEANINGS[name], columns=TABLES[name]) for name in ("measurements", "windows")}
    info = Described(meaning="one row for each metric that there is", columns=METRIC_INFO)
    return (
        views | tables | {"metric_info": info, "files": Described(meaning=MEANINGS["files"], columns=TABLES["files"])}
    )


def statements() -> Iterator[str]:
    """Yield the SQL that makes the views and the table of metrics."""
    yield f"CREATE TABLE metric_info ({', '.join(f'{name} {column.kind}' for name, column in METRIC_INFO.items())})"
    for name, view in VIEWS.items():
        yield view.sql(name)


def info_insert() -> str:
    """Return the SQL that takes a metric's description in."""
    return f"INSERT INTO metric_info VALUES ({', '.join(f':{name}' for name in METRIC_INFO)})"


def info_rows(told: Sequence[Row]) -> list[Row]:
    """Return descriptions as rows with every column."""
    return [{name: row.get(name, "") for name in METRIC_INFO} for row in told]
