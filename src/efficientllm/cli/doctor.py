"""`doctor`: what can be measured on this machine, from which source, and how well."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from efficientllm.cli.options import AsJson

if TYPE_CHECKING:
    from rich.console import Console

    from efficientllm.devices._contract import Device

#: What the meters may cost.
_BOUND = 0.01


def doctor(
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")] = "auto",
    cost: Annotated[bool, typer.Option(help="Measure what the meters cost, in about ten seconds.")] = True,
    as_json: AsJson = False,
) -> None:
    """Say what can be measured here, from which source, at what resolution, and at what cost."""
    from efficientllm.devices.choose import open_device
    from efficientllm.devices.inventory import inventory

    opened = open_device(device)
    costs, why_not = _own_cost(opened) if cost else ({}, "not asked for")
    # after the loops: with a context open, the driver lists this process and its memory
    info, rows = opened.info(), inventory(opened)
    if as_json:
        import msgspec

        said = {"device": info, "quantities": rows, "cost": costs, "cost_absent": why_not}
        typer.echo(msgspec.json.encode(said).decode())
        return
    from rich.console import Console
    from rich.table import Table

    from efficientllm.units import bytes_text

    console = Console()
    console.print(f"{info.kind}: {info.name}, {info.cores} cores, {bytes_text(info.capacity_bytes)}", highlight=False)
    table = Table("quantity", "source", "resolution")
    for row in rows:
        table.add_row(row.quantity, row.source or "[dim]absent[/dim]", row.resolution or row.absent)
    console.print(table)
    _print_cost(console, costs, why_not)


def _own_cost(device: Device) -> tuple[dict[str, float], str]:
    """Return the meters' cost, or why it was not measured."""
    try:
        from efficientllm.meters.self_cost import own_cost

        return own_cost(device), ""
    except ImportError as error:
        return {}, f"{error}; install efficientllm[bench]"


def _print_cost(console: Console, costs: dict[str, float], why_not: str) -> None:
    from efficientllm.units import percent_text, seconds_text

    if why_not:
        console.print(f"meters' own cost: not measured ({why_not})", highlight=False)
        return
    slowdown, spread = costs.get("metered_slowdown_ratio"), costs.get("bare_spread_ratio")
    if slowdown is not None and spread is not None:
        sign = "✓" if slowdown < _BOUND else "✗"
        beside = f"bare rounds differ by {percent_text(spread)} among themselves"
        console.print(f"{sign} a metered loop takes {percent_text(slowdown)} longer ({beside})", highlight=False)
    share = costs.get("sampler_cost_ratio")
    if share is not None:
        sign = "✓" if share < _BOUND else "✗"
        console.print(f"{sign} the sampler takes {percent_text(share)} of the processor", highlight=False)
    console.print(f"  it starts in {seconds_text(costs['sampler_start_s'])}, before anything is timed", highlight=False)


ENTRY = doctor
