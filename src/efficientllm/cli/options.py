"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Results = Annotated[Path, typer.Option("--results", help="Folder of all results.", metavar="DIR")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")]
StudyName = Annotated[str, typer.Argument(help="A study's name, as `efficientllm show` lists them.", metavar="STUDY")]

DEFAULT_RESULTS = Path("results")
