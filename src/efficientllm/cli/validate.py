"""`validate`: is what was handed in whole, consistent and possible?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from efficientllm.cli.options import AsJson


def validate(
    files: Annotated[
        list[Path], typer.Argument(help="Bundles, studies, results folders or measurements.", metavar="FILE...")
    ],
    as_json: AsJson = False,
) -> None:
    """Make every check again that stored results allow; exit 1 if anything is refused.

    Hashes, ids, physics, the protocol, completeness against the recipe, and all figures that the raw series give.
    Integrity, not authenticity: who invents consistent raw series passes.
    """
    import msgspec

    from efficientllm.bench.judging import datasheet_by_info
    from efficientllm.report.validation_text import lines, plain
    from efficientllm.validity.submission import read
    from efficientllm.validity.validate import validate as run_checks

    validations = [run_checks(found) for file in files for found in read(file, datasheet_by_info)]
    if as_json:
        typer.echo(msgspec.json.format(msgspec.json.encode(plain(validations)), indent=2).decode())
    else:
        typer.echo("\n".join(lines(validations)))
    if not all(validation.valid for validation in validations):
        raise typer.Exit(1)


ENTRY = validate
