"""`doctor`: what can be measured on this machine, from which source, and how well."""

from __future__ import annotations

from typing import Annotated

import typer

from efficientllm.cli.options import AsJson


def doctor(
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")] = "auto", as_json: AsJson = False
) -> None:
    """Say what can be measured here, from which source, at what resolution, and at what cost."""
    from efficientllm.devices.choose import open_device
    from efficientllm.devices.inventory import inventory

    opened = open_device(device)
    info, rows = opened.info(), inventory(opened)
    if as_json:
        import msgspec

        typer.echo(msgspec.json.encode({"device": info, "quantities": rows}).decode())
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


ENTRY = doctor
