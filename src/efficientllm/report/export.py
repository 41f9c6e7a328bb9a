"""An SQL answer as a file: a table for people, CSV, JSON, or Parquet."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from efficientllm.errors import ResultsError, UserError
from efficientllm.store.sql import Answer

FORMATS = ("table", "csv", "json", "parquet")


def format_of(style: str, output: Path | None) -> str:
    """Return the form that is asked for: the one named, else by the file's ending, else a table.

    Raises:
        UserError: no such form, or Parquet without a file.

    >>> format_of("", Path("a.parquet")), format_of("csv", None), format_of("", Path("a.txt"))
    ('parquet', 'csv', 'table')
    """
    ending = output.suffix.removeprefix(".") if output is not None else ""
    chosen = style or (ending if ending in FORMATS else "table")
    if chosen not in FORMATS:
        raise UserError(f"--format: {style!r} is none of {', '.join(FORMATS)}.")
    if chosen == "parquet" and output is None:
        raise UserError("--format parquet writes a file: give --output FILE.")
    return chosen


def export(answer: Answer, style: str, output: Path | None) -> None:
    """Write an answer to a file, or to the screen.

    Raises:
        UserError: Parquet without its library.
        ResultsError: the file cannot be written.
    """
    if output is None:
        _to_screen(answer, style)
        return
    data = parquet_bytes(answer) if style == "parquet" else text_of(answer, style).encode()
    try:
        output.write_bytes(data)
    except OSError as error:
        raise ResultsError(f"cannot write {output}: {error.strerror}. Give another --output.") from error


def text_of(answer: Answer, style: str) -> str:
    r"""Return an answer as text.

    >>> text_of((["a", "b"], [(1, None), (2, "x,y")]), "csv")
    'a,b\n1,\n2,"x,y"\n'
    >>> text_of((["a", "b"], [(1, None)]), "json")
    '[{"a":1,"b":null}]\n'
    """
    columns, rows = answer
    if style == "json":
        return msgspec.json.encode([dict(zip(columns, row, strict=True)) for row in rows]).decode() + "\n"
    written = io.StringIO()
    if style == "csv":
        writer = csv.writer(written, lineterminator="\n")
        writer.writerows([columns, *rows])
    else:
        Console(file=written, width=10_000).print(_table(answer))
    return written.getvalue()


def parquet_bytes(answer: Answer) -> bytes:
    """Return an answer as a Parquet file; a column of several types becomes text.

    Raises:
        UserError: pyarrow is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UserError("Parquet needs pyarrow: pip install 'efficientllm[data]'.") from error
    columns, rows = answer
    arrays = []
    for index in range(len(columns)):
        values = [row[index] for row in rows]
        try:
            arrays.append(pyarrow.array(values))
        except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError):
            arrays.append(pyarrow.array([None if value is None else str(value) for value in values]))
    written = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(arrays, names=columns), written)
    return written.getvalue()


def _to_screen(answer: Answer, style: str) -> None:
    if style == "table":
        Console().print(_table(answer))
    else:
        print(text_of(answer, style), end="")


def _table(answer: Answer) -> Table:
    columns, rows = answer
    table = Table()
    for index, column in enumerate(columns):
        numbers = any(isinstance(row[index], int | float) for row in rows)
        table.add_column(column, justify="right" if numbers else "left")
    for row in rows:
        table.add_row(*("" if value is None else _cell(value) for value in row))
    return table


def _cell(value: object) -> str:
    r"""Return a value as a table's cell; of a number what a person reads, the other forms have it whole.

    >>> _cell(0.1 + 0.2), _cell(3), _cell("[x]")
    ('0.3', '3', '\\[x]')
    """
    return f"{value:.6g}" if isinstance(value, float) else str(value).replace("[", "\\[")
