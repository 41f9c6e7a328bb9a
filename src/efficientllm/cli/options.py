"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Results = Annotated[Path, typer.Option("--results", help="Folder of all results.", metavar="DIR")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")]
StudyName = Annotated[str, typer.Argument(help="A study's name, as `efficientllm show` lists them.", metavar="STUDY")]
Studies = Annotated[
    list[str] | None, typer.Argument(help="One study or several; none where there is only one.", metavar="[STUDY]…")
]
Stage = Annotated[str, typer.Option("--stage", help="Only this stage.", metavar="NAME")]
WindowName = Annotated[
    str, typer.Option("--window", help='Only these windows: decode, or "decode batch=1".', metavar="NAME")
]
Rows = Annotated[str, typer.Option("--rows", help="Only these techniques, or STUDY/TECHNIQUE.", metavar="A,B")]

DEFAULT_RESULTS = Path("results")
