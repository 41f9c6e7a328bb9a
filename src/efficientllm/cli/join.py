"""`join`: lend this machine's devices to a study that runs on another."""

from __future__ import annotations

from typing import Annotated

import typer

from efficientllm.cli.options import DEFAULT_RESULTS, Results


def join(
    address: Annotated[str, typer.Argument(help="Where the first machine waits.", metavar="HOST:PORT")],
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")] = "auto",
    results: Results = DEFAULT_RESULTS,
) -> None:
    """Join `efficientllm run RECIPE --nodes N --rendezvous HOST:PORT` of another machine, until its study is over."""
    from efficientllm.bench.follower import follow
    from efficientllm.bench.nodes import join_first
    from efficientllm.devices.choose import open_device

    opened = open_device(device)
    typer.echo(f"joining {address} with {opened.info().name}")
    first = join_first(address, [one.info() for one in opened.all_of_kind()])
    try:
        typer.echo(follow(first, opened, results / ".cache", typer.echo))
    finally:
        first.close()


ENTRY = join
