"""`query`: SQL over stored records, and their export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from efficientllm.cli.options import DEFAULT_RESULTS, AsJson, Results
from efficientllm.errors import UserError

_EXAMPLE = "select technique, label, avg(value) from metrics where metric = 'latency_median' group by 1, 2"


def query(
    sql: Annotated[str, typer.Argument(help=f'For example "{_EXAMPLE}".', metavar="[SQL]")] = "",
    study: Annotated[
        list[str] | None, typer.Option("--study", help="Which study, quickstart if none is named; may repeat.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Over all studies of the results folder.")] = False,
    tables: Annotated[bool, typer.Option("--tables", help="Print what can be asked: columns, units, meaning.")] = False,
    results: Results = DEFAULT_RESULTS,
    style: Annotated[
        str, typer.Option("--format", help="table, csv, json or parquet; by the file's ending if there is one.")
    ] = "",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File to write.")] = None,
    as_json: AsJson = False,
) -> None:
    """Ask stored records in SQL, read-only, and export the answer: metrics, figures, series, measurements, windows."""
    from efficientllm.report.export import export, format_of

    form = "json" if as_json and not style else format_of(style, output)
    if tables:
        export(_tables(), form, output)
        return
    if not sql:
        raise UserError(f'query: give an SQL statement, for example "{_EXAMPLE}", or --tables.')
    if every and study:
        raise UserError("query: give --all or --study, not both.")
    from efficientllm.analysis.database import ask

    export(ask(sql, results, () if every else (study or ["quickstart"])), form, output)
    if output is not None:
        typer.echo(output)


def _tables() -> tuple[list[str], list[tuple[object, ...]]]:
    """Return every column that can be asked for, one a row."""
    from efficientllm.store.views import described

    rows: list[tuple[object, ...]] = []
    for name, one in described().items():
        rows.append((name, "", "", one.meaning))
        rows += [("", column, told.unit, told.meaning) for column, told in one.columns.items()]
    return ["table", "column", "unit", "meaning"], rows


ENTRY = query
