"""`bundle`: a study with its raw series as one file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from efficientllm.cli.options import DEFAULT_RESULTS, Results, StudyName


def bundle(
    study: StudyName,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File to write.")] = None,
    results: Results = DEFAULT_RESULTS,
) -> None:
    """Pack a study, raw series included, into one compressed file that `merge` takes back."""
    from efficientllm.cli._tables import read_study
    from efficientllm.store.bundle import write_bundle
    from efficientllm.store.folder import Study

    read_study(results, study)
    file = output or Path(f"{study}.efficientllm.tar.xz")
    write_bundle(Study(results, study), file)
    typer.echo(file)


ENTRY = bundle
