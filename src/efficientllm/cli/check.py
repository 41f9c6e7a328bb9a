"""`check`: hold a mixer, one's own or the package's, to the contract of its folder."""

from __future__ import annotations

from typing import Annotated

import typer


def check(
    mixer: Annotated[str, typer.Argument(help="A file such as my_mixer.py, or a mixer's name.", metavar="FILE")],
) -> None:
    """Run the contract test of the mixers' folder on one mixer; exit 1 if it breaks any of it."""
    from efficientllm import registry
    from efficientllm.models.mixers import _checks

    failed = 0
    for name, error in _checks.check(registry.load("mixer", mixer)):
        failed += error is not None
        typer.echo(f"{'✗' if error else '✓'} {name}{f': {error}' if error else ''}")
    if failed:
        raise typer.Exit(1)


ENTRY = check
