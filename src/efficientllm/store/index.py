"""SQL over a study: an sqlite index of its JSON files.

The index is a cache. It is brought up to date by name, size and time of the files, built anew when it is missing,
damaged or of another version, and built in memory where the folder cannot be written. `schema` says what the tables
hold.
"""

from __future__ import annotations

import os
import sqlite3
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from efficientllm.errors import UserError
from efficientllm.records.measurement import Measurement
from efficientllm.records.window import Window
from efficientllm.store import schema, views
from efficientllm.store.folder import Problem, Study, read_measurement
from efficientllm.store.names import is_safe_id
from efficientllm.store.sql import Answer, answer, explained

#: Gives the metrics of one window: name -> value, or the reason why there is none. Analysis, which lies above the
#: store, hands it in.
Metrics = Callable[[Measurement, Window], Mapping[str, float | str]]
#: How long another process may hold the index before a copy in memory is built instead.
WAIT_S = 30.0
_Stamp = tuple[int, int]
#: Changes with the tables and views, so that no index of another form is read.
_FORM = zlib.crc32("".join([*schema.statements(), *views.statements()]).encode())
Read = TypeVar("Read")

#: What sqlite answers where the file cannot be used, though nothing is wrong with it.
_UNUSABLE = ("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM", "SQLITE_FULL")
_DAMAGED = {"SQLITE_CORRUPT", "SQLITE_NOTADB"}


@dataclass(frozen=True, kw_only=True)
class Refresh:
    """What bringing the index up to date did: numbers of files, and whether it was built from nothing."""

    added: int
    removed: int
    unchanged: int
    rebuilt: bool
    in_memory: bool


class Index:
    """The index of one study.

    Args:
        study: whose measurements.
        metrics: gives the table `metrics`; without it that table is empty.
        metrics_version: changes whenever `metrics` would answer differently; the index is then built anew.
        metric_info: a row for each metric that there is, see `views.METRIC_INFO`.
    """

    def __init__(
        self,
        study: Study,
        metrics: Metrics | None = None,
        metrics_version: str = "",
        metric_info: Sequence[schema.Row] = (),
    ) -> None:
        self.study = study
        self._metrics = metrics
        self._info = metric_info
        self._version = f"{schema.INDEX_VERSION} {_FORM:08x} {metrics_version if metrics else 'none'}"

    def refresh(self) -> Refresh:
        """Bring the index up to date with the files; say what was done."""
        with self._up_to_date() as (_, done):
            return done

    def query(self, sql: str) -> Answer:
        """Answer one SQL statement that only reads, from an index brought up to date.

        Returns:
            the columns' names and the rows.

        Raises:
            UserError: sqlite cannot run it, or it would write; with sqlite's words and the real names.
        """

        def read(connection: sqlite3.Connection) -> Answer:
            try:
                return answer(connection, sql)
            except (sqlite3.Error, sqlite3.Warning, ValueError) as error:
                if getattr(error, "sqlite_errorname", "") in _DAMAGED:
                    raise
                raise explained(error, sql) from error

        return self._reading(read)

    def rows(self) -> dict[str, list[tuple[object, ...]]]:
        """Return table -> all its rows, the columns in the schema's order, from an index brought up to date."""
        return self._reading(
            lambda connection: {
                table: connection.execute(f"SELECT {', '.join(columns)} FROM {table}").fetchall()
                for table, columns in schema.TABLES.items()
            }
        )

    def _reading(self, read: Callable[[sqlite3.Connection], Read]) -> Read:
        """Read from an index brought up to date, once more from nothing if only the reading meets its damage."""
        for _ in range(2):
            with self._up_to_date() as (connection, _done):
                try:
                    return read(connection)
                except sqlite3.Error as error:
                    if getattr(error, "sqlite_errorname", "") not in _DAMAGED:
                        raise
            _remove(self.study.index_file)
        raise UserError(f"{self.study.index_file} is damaged again as soon as it is built. Check the disk.")

    @contextmanager
    def _up_to_date(self) -> Iterator[tuple[sqlite3.Connection, Refresh]]:
        connection, done = self._on_disk() or self._update(":memory:")
        try:
            yield connection, done
        finally:
            connection.close()

    def _on_disk(self) -> tuple[sqlite3.Connection, Refresh] | None:
        """Update the index file, once more from nothing if it is damaged; None if no file can be used."""
        if not self.study.path.is_dir():
            return None
        for _ in range(2):
            try:
                return self._update(self.study.index_file)
            except sqlite3.DatabaseError as error:
                unusable = getattr(error, "sqlite_errorname", "").startswith(_UNUSABLE)
                if unusable or not _remove(self.study.index_file):
                    return None
        return None

    def _update(self, file: Path | str) -> tuple[sqlite3.Connection, Refresh]:
        connection = sqlite3.connect(file, timeout=WAIT_S, isolation_level=None)
        try:
            connection.execute("BEGIN IMMEDIATE")
            rebuilt = _version_of(connection) != self._version
            if rebuilt:
                make_tables(connection, self._version, self._info)
            done = self._bring_in(connection, rebuilt=rebuilt, in_memory=file == ":memory:")
            connection.execute("COMMIT")
        except BaseException:
            connection.close()
            raise
        return connection, done

    def _bring_in(self, connection: sqlite3.Connection, *, rebuilt: bool, in_memory: bool) -> Refresh:
        here = dict(_stamps(self.study.measurements_folder))
        known = {
            file: (size, mtime)
            for file, size, mtime in connection.execute("SELECT file, size_bytes, mtime_ns FROM files")
        }
        gone = [file for file, stamp in known.items() if here.get(file) != stamp]
        new = sorted(file for file, stamp in here.items() if known.get(file) != stamp)
        for file in gone:
            _forget(connection, file)
        last = connection.execute("SELECT coalesce(max(measurement), 0) FROM files").fetchone()[0]
        for number, file in enumerate(new, start=last + 1):
            self._take_in(connection, number, file, here[file])
        return Refresh(
            added=len(new),
            removed=sum(file not in here for file in gone),
            unchanged=len(known) - len(gone),
            rebuilt=rebuilt,
            in_memory=in_memory,
        )

    def _take_in(self, connection: sqlite3.Connection, number: int, file: str, stamp: _Stamp) -> None:
        found = read_measurement(self.study.measurements_folder / file)
        problem = found.reason if isinstance(found, Problem) else None
        if isinstance(found, Measurement):
            try:
                for table, row in self._rows(number, found):
                    _insert(connection, table, row)
            except OverflowError as error:
                _delete(connection, number)
                problem = f"a number beyond 64 bits: {error}"
        row = {"file": file, "size_bytes": stamp[0], "mtime_ns": stamp[1], "measurement": number, "problem": problem}
        _insert(connection, "files", row)

    def _rows(self, number: int, measurement: Measurement) -> Iterator[tuple[str, schema.Row]]:
        yield "measurements", schema.measurement_row(number, self.study.name, measurement)
        for row in schema.figure_rows(number, None, measurement.figures):
            yield "figure_rows", row
        for place, window in enumerate(measurement.windows):
            yield "windows", schema.window_row(number, place, window)
            for row in schema.figure_rows(number, place, window.figures):
                yield "figure_rows", row
            for series in window.series:
                yield "series_rows", schema.series_row(number, place, series)
            for row in schema.metric_rows(number, place, self._metrics(measurement, window) if self._metrics else {}):
                yield "metric_rows", row


#: table -> the statement that takes a row in.
INSERT = {
    table: f"INSERT INTO {table} VALUES ({', '.join(f':{name}' for name in columns)})"
    for table, columns in schema.TABLES.items()
}


def _insert(connection: sqlite3.Connection, table: str, row: schema.Row) -> None:
    connection.execute(INSERT[table], row)


def _forget(connection: sqlite3.Connection, file: str) -> None:
    (number,) = connection.execute("SELECT measurement FROM files WHERE file = ?", (file,)).fetchone()
    connection.execute("DELETE FROM files WHERE file = ?", (file,))
    _delete(connection, number)


def _delete(connection: sqlite3.Connection, number: int) -> None:
    for table in schema.TABLES.keys() - {"files"}:
        connection.execute(f"DELETE FROM {table} WHERE measurement = ?", (number,))


def _stamps(folder: Path) -> Iterator[tuple[str, _Stamp]]:
    if folder.is_dir():
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.endswith(".json") and is_safe_id(entry.name.removesuffix(".json")):
                    seen = entry.stat()
                    yield entry.name, (seen.st_size, seen.st_mtime_ns)


def _version_of(connection: sqlite3.Connection) -> str:
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'about'").fetchone():
        return ""
    return str(connection.execute("SELECT version FROM about").fetchone()[0])


def make_tables(connection: sqlite3.Connection, version: str, metric_info: Sequence[schema.Row]) -> None:
    """Make the empty tables and the views, in place of whatever is there."""
    stranger = connection.execute("SELECT type, name FROM sqlite_master WHERE type IN ('table', 'view')").fetchall()
    for kind, name in sorted(stranger, reverse=True):  # views before the tables that they read
        connection.execute(f'DROP {kind.upper()} IF EXISTS "{name}"')
    for statement in (*schema.statements(), *views.statements()):
        connection.execute(statement)
    connection.executemany(views.info_insert(), views.info_rows(metric_info))
    connection.execute("CREATE TABLE about (version TEXT)")
    connection.execute("INSERT INTO about VALUES (?)", (version,))


def _remove(file: Path) -> bool:
    """Remove the index file and its journal; return False if they cannot be."""
    try:
        for path in (file, *(file.with_name(file.name + tail) for tail in ("-journal", "-wal", "-shm"))):
            path.unlink(missing_ok=True)
    except OSError:
        return False
    return True
