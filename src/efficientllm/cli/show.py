"""`show`: list the studies, or print one study's table."""

from __future__ import annotations

from typing import Annotated

import typer

from efficientllm.cli.options import DEFAULT_RESULTS, AsJson, Results


def show(
    study: Annotated[str, typer.Argument(help="A study's name; without it, all are listed.", metavar="[STUDY]")] = "",
    results: Results = DEFAULT_RESULTS,
    as_json: AsJson = False,
) -> None:
    """List the studies, or print one study's table."""
    if not study:
        _list_studies(results, as_json)
        return
    from efficientllm.cli._tables import study_table_of

    table, _ = study_table_of(results, study)
    if as_json:
        import msgspec

        typer.echo(msgspec.json.encode(table).decode())
        return
    from rich.console import Console

    from efficientllm.report.terminal import print_table

    print_table(table, Console())


def _list_studies(results: object, as_json: bool) -> None:
    from collections import Counter
    from pathlib import Path

    from efficientllm.store.folder import Study, studies

    assert isinstance(results, Path)
    rows = {}
    for name in studies(results):
        measurements, problems = Study(results, name).read_all()
        rows[name] = dict(Counter(m.outcome for m in measurements)) | (
            {"unreadable": len(problems)} if problems else {}
        )
    if as_json:
        import msgspec

        typer.echo(msgspec.json.encode(rows).decode())
        return
    for name, outcomes in rows.items():
        typer.echo(f"{name:<24} " + ", ".join(f"{count} {outcome}" for outcome, count in outcomes.items()))
    if not rows:
        typer.echo(f"no study in {results} yet; `efficientllm run quickstart` makes one")


ENTRY = show
