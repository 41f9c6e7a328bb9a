"""`pareto`: who is beaten by none on two or more metrics, who is beaten, by whom and by what."""

from __future__ import annotations

from typing import Annotated

import typer

from efficientllm.cli.options import DEFAULT_RESULTS, AsJson, Results, Rows, Stage, Studies, WindowName


def pareto(
    studies: Studies = None,
    metrics: Annotated[
        str, typer.Option("--metrics", help="Two or more: kinds (latency) or metrics (latency_p95).", metavar="A,B")
    ] = "memory,latency,quality",
    where: Annotated[
        list[str] | None,
        typer.Option(
            "--where", help='"memory_peak<=24GiB", or "quality<=+1%" of the baseline; several times.', metavar="LIMIT"
        ),
    ] = None,
    stage: Stage = "",
    window: WindowName = "",
    rows: Rows = "",
    every_point: Annotated[
        bool, typer.Option("--all", help="All tables, of a grid all points, not only the ends.")
    ] = False,
    results: Results = DEFAULT_RESULTS,
    as_json: AsJson = False,
) -> None:
    """Say who is on the front of some metrics, who is beaten, by whom and by what, within limits."""
    from efficientllm.analysis.asked import Asked
    from efficientllm.analysis.frontier import fronts
    from efficientllm.analysis.limits import limit_of
    from efficientllm.cli._pool import MOST_TABLES, names_in, pool_of

    asked = Asked(
        metrics=names_in(metrics), stage=stage, window=window, rows=names_in(rows), every_point=every_point,
        at_most=0 if every_point or as_json else MOST_TABLES,
    )  # fmt: skip
    limits = [limit_of(text) for text in where or ()]
    found = fronts(pool_of(results, studies), asked, limits)
    if as_json:
        import msgspec

        typer.echo(msgspec.json.encode(found).decode())
        return
    from rich.console import Console

    from efficientllm.report.frontier_text import print_fronts

    print_fronts(found, Console())


ENTRY = pareto
