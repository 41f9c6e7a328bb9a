"""`rank`: who is first, by each metric and over all, and how sure that is."""

from __future__ import annotations

from typing import Annotated

import typer

from efficientllm.cli.options import DEFAULT_RESULTS, AsJson, Results, Rows, Stage, Studies, WindowName


def rank(
    studies: Studies = None,
    metric: Annotated[
        list[str] | None,
        typer.Option("--metric", help="latency, memory … or a metric such as latency_p95; several times.", metavar="M"),
    ] = None,
    stage: Stage = "",
    window: WindowName = "",
    weights: Annotated[
        str,
        typer.Option("--weights", help="Of the score: equal, or memory=2,energy=1 (others then count nothing)."),
    ] = "equal",
    rows: Rows = "",
    every_point: Annotated[
        bool, typer.Option("--all", help="All tables, of a grid all points, not only the ends.")
    ] = False,
    results: Results = DEFAULT_RESULTS,
    as_json: AsJson = False,
) -> None:
    """Rank techniques that may be compared: by each metric and over all, with how sure each place is."""
    from efficientllm.analysis.asked import Asked
    from efficientllm.analysis.ranking import rankings
    from efficientllm.cli._pool import MOST_TABLES, names_in, pool_of, weights_in

    asked = Asked(
        metrics=tuple(metric or ()), stage=stage, window=window, weights=weights_in(weights), rows=names_in(rows),
        every_point=every_point,
        at_most=0 if every_point or as_json else MOST_TABLES,
    )  # fmt: skip
    found = rankings(pool_of(results, studies), asked)
    if as_json:
        import msgspec

        typer.echo(msgspec.json.encode(found).decode())
        return
    from rich.console import Console

    from efficientllm.report.ranking_text import print_rankings

    print_rankings(found, Console())


ENTRY = rank
