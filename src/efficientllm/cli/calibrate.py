"""`calibrate`: measure what this device reaches at most."""

from __future__ import annotations

from typing import Annotated

import typer

from efficientllm.cli.options import DEFAULT_RESULTS, Results


def calibrate(
    results: Results = DEFAULT_RESULTS,
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")] = "auto",
    again: Annotated[bool, typer.Option("--again", help="Measure although it is stored.")] = False,
) -> None:
    """Measure this device's ceilings, once a machine; every later result is held against them."""
    from efficientllm.bench.ceilings import calibrate as measure
    from efficientllm.bench.ceilings import ceilings_of
    from efficientllm.bench.probe import host_threads
    from efficientllm.cli._watch import RichWatcher
    from efficientllm.devices.choose import open_device
    from efficientllm.units import quantity_text

    with RichWatcher() as watcher:
        watcher.note("calibration of this device")
        measurement = measure(results, open_device(device), host_threads(), watcher.progress, again=again)
    ceilings = ceilings_of(measurement)
    if ceilings is None:
        typer.echo(f"{measurement.outcome}: {measurement.reason}", err=True)
        raise typer.Exit(1)
    for dtype, peak in ceilings.matmul_peak_flop_per_s.items():
        sustained = ceilings.matmul_sustained_flop_per_s.get(dtype)
        beside = f" ({quantity_text(sustained, 'flop/s')} sustained)" if sustained else ""
        typer.echo(f"matmul {dtype:<9} {quantity_text(peak, 'flop/s')}{beside}")
    typer.echo(f"read             {quantity_text(ceilings.read_bytes_per_s, 'bytes/s')}")
    typer.echo(f"copy             {quantity_text(ceilings.copy_bytes_per_s, 'bytes/s')}")
    if ceilings.link_bytes_per_s:
        typer.echo(f"link             {quantity_text(ceilings.link_bytes_per_s, 'bytes/s')} one way")
    typer.echo(f"launch           {quantity_text(ceilings.launch_s, 's')}")
    cap_w = measurement.environment.devices[0].power_cap_w
    for name, watts in (("idle", ceilings.idle_power_w), ("power cap", cap_w)):
        typer.echo(f"{name:<16} {quantity_text(watts, 'w') if watts else 'not told by this device'}")


ENTRY = calibrate
