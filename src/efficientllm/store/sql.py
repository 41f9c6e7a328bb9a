"""One SQL statement that only reads, and what is said where it cannot be answered."""

from __future__ import annotations

import re
import sqlite3

from efficientllm.errors import UserError, did_you_mean
from efficientllm.store.views import described

#: Names of columns, and rows.
Answer = tuple[list[str], list[tuple[object, ...]]]

_READING = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}
_NO_COLUMN = re.compile(r"no such column: (?:\w+\.)?\"?(\w+)")


def answer(connection: sqlite3.Connection, sql: str) -> Answer:
    """Run one statement that only reads.

    Raises:
        sqlite3.Error, sqlite3.Warning, ValueError: it cannot be run, or it would write.
    """
    connection.execute("PRAGMA query_only = ON")
    connection.set_authorizer(_only_reading)
    cursor = connection.execute(sql)
    if cursor.description is None:
        raise ValueError("no statement that answers anything")
    return _told_apart([column[0] for column in cursor.description]), cursor.fetchall()


def explained(error: Exception, sql: str) -> UserError:
    """Return sqlite's error as one line with the real names: a table's columns, else the tables."""
    said = " ".join(str(error).split())
    if said == "not authorized":
        said = "it would write, or reach beyond the records; only SELECT is answered"
    tables = described()
    missing = _NO_COLUMN.search(said)
    asked = [name for name in tables if re.search(rf"\b{name}\b", sql, re.IGNORECASE)]
    if missing and asked:
        columns = {name: list(tables[name].columns) for name in asked}
        near = did_you_mean(missing[1], dict.fromkeys(column for of in columns.values() for column in of))
        told = ". ".join(f"Columns of {name}: {', '.join(of)}" for name, of in columns.items())
        return UserError(f"query: {said}. {near}{told}.")
    return UserError(f"query: {said}. Tables: {', '.join(sorted(tables))}.")


def _told_apart(names: list[str]) -> list[str]:
    """Return columns' names with a number behind those that come again.

    >>> _told_apart(["name", "value", "name"])
    ['name', 'value', 'name_2']
    """
    found: list[str] = []
    for name in names:
        number, told = 1, name
        while told in found:
            number += 1
            told = f"{name}_{number}"
        found.append(told)
    return found


def _only_reading(action: int, *_: object) -> int:
    return sqlite3.SQLITE_OK if action in _READING else sqlite3.SQLITE_DENY
