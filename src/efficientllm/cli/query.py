"""`query`: SQL over a study's records."""

from __future__ import annotations

from typing import Annotated

import typer

from efficientllm.cli.options import DEFAULT_RESULTS, AsJson, Results


def query(
    sql: Annotated[str, typer.Argument(help='For example "select technique, value from metrics …".', metavar="SQL")],
    study: Annotated[str, typer.Option("--study", help="Which study.")] = "quickstart",
    results: Results = DEFAULT_RESULTS,
    as_json: AsJson = False,
) -> None:
    """Ask a study's records in SQL: tables measurements, windows, figures, series, metrics."""
    from efficientllm.analysis.values import all_metrics
    from efficientllm.cli._tables import read_study
    from efficientllm.store.folder import Study
    from efficientllm.store.index import Index

    read_study(results, study)
    columns, rows = Index(Study(results, study), all_metrics, _metrics_version()).query(sql)
    if as_json:
        import msgspec

        typer.echo(msgspec.json.encode([dict(zip(columns, row, strict=True)) for row in rows]).decode())
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns)
    for row in rows:
        table.add_row(*("" if value is None else str(value) for value in row))
    Console().print(table)


def _metrics_version() -> str:
    """Return a hash of the code that the metrics are made of: when it changes, the index is built anew."""
    import hashlib

    from efficientllm.catalog import PACKAGE
    from efficientllm.registry import file_sha256

    hashes = [file_sha256(path) for room in ("analysis", "physics") for path in sorted((PACKAGE / room).rglob("*.py"))]
    return hashlib.sha256("".join(hashes).encode()).hexdigest()[:16]


ENTRY = query
