"""`merge`: take bundles or results folders in, nothing counted twice."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from efficientllm.cli.options import DEFAULT_RESULTS, Results


def merge(
    sources: Annotated[list[Path], typer.Argument(help="Bundles or results folders.", metavar="FILE...")],
    results: Results = DEFAULT_RESULTS,
) -> None:
    """Take measurements from elsewhere into the results folder; what is there already is not counted again."""
    from efficientllm.store.bundle import merge_bundle

    refused = 0
    for source in sources:
        report = merge_bundle(source, results)
        refused += len(report.refused)
        typer.echo(f"{source}: {len(report.added)} added, {len(report.already_there)} there already")
        for measurement, reason in report.refused.items():
            typer.echo(f"refused: {measurement}: {reason}")
    if refused:
        raise typer.Exit(1)


ENTRY = merge
