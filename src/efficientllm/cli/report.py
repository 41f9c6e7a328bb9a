"""`report`: write a study's page, its table as Markdown, or its figures."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from efficientllm.cli.options import DEFAULT_RESULTS, Results
from efficientllm.errors import ResultsError, UserError

_FORMATS = ("html", "markdown", "svg", "pdf", "png")


def report(
    study: Annotated[
        str, typer.Argument(help="A study's name, as `efficientllm show` lists them.", metavar="[STUDY]")
    ] = "",
    results: Results = DEFAULT_RESULTS,
    style: Annotated[str, typer.Option("--format", help="html, markdown, or figures: svg, pdf, png.")] = "html",
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="File to write, of figures the folder; Markdown goes to the screen without it."
        ),
    ] = None,
    site: Annotated[
        Path | None, typer.Option("--site", help="A folder of bundles: write a static site of them.", metavar="FOLDER")
    ] = None,
    license_: Annotated[
        str, typer.Option("--license", help="With --site: the data's licence, such as CC-BY-4.0, for croissant.json.")
    ] = "",
    creator: Annotated[str, typer.Option("--creator", help="With --site: who publishes it; org:NAME.")] = "",
    url: Annotated[str, typer.Option("--url", help="With --site: where it will stand.")] = "",
) -> None:
    """Write a study's page as one offline HTML file, its table as Markdown, its figures, or a site of many bundles."""
    if site is not None:
        from efficientllm.cli._site import write_site

        if study:
            raise UserError(f"--site takes a folder of bundles and no study ({study!r}). Leave one of them out.")
        typer.echo(write_site(site, output or Path("site"), license_=license_, creator=creator, url=url))
        return
    if not study:
        raise UserError("report needs a study's name, or --site with a folder of bundles. See `efficientllm show`.")
    if style not in _FORMATS:
        raise UserError(f"--format: {style!r} is none of {', '.join(_FORMATS)}.")
    from efficientllm.cli._tables import study_table_of, write_page

    if style == "html" and output is None:
        typer.echo(write_page(results, study)[1])
        return
    table, measurements = study_table_of(results, study)
    if style in _FORMATS[2:]:
        from efficientllm.report.figures.write import write_figures

        for file in write_figures(table, measurements, output or results / study / "figures", style):
            typer.echo(file)
        return
    if style == "html":
        assert output is not None
        from efficientllm.report.html import page

        folder = (results / study / "measurements").resolve()
        text = page(table, measurements, records_at=Path(os.path.relpath(folder, output.resolve().parent)).as_posix())
    else:
        from efficientllm.report.markdown import markdown

        text = markdown(table)
    if output is None:
        typer.echo(text)
        return
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ResultsError(f"cannot write {output}: {error.strerror}. Give another --output.") from error
    typer.echo(output)


ENTRY = report
