"""`compare`: two studies, files, commits or machines."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from efficientllm.cli.options import DEFAULT_RESULTS, AsJson, Results
from efficientllm.errors import UserError

if TYPE_CHECKING:
    from efficientllm.analysis.comparison_side import Side

_FORMATS = ("text", "markdown")
_SIDE = (
    "A study, a results folder, a bundle or a measurement's file; after @ which of its measurements: a git commit "
    "(quickstart@abc123), @machine:ID, @software:0.1.0, @python:3.12.3, or a library (@torch:2.11.0)."
)
_FAIL_OVER = (
    "Exit 1 if B is shown to be worse than A by more than this: the whole one-sided 95 % interval of B/A lies beyond "
    "it, Holm-corrected over all figures compared; an estimate beyond it that is not certain is told, and does not "
    "fail. Also if a row or window of A with figures has none in B: out of memory, crashed, invalid, or not measured. "
    "5% allows 5 % more where less is better, 5 % less where more is."
)


def compare(
    a: Annotated[str, typer.Argument(help=_SIDE, metavar="A")],
    b: Annotated[str, typer.Argument(help="What is judged against A, in the same form.", metavar="B")],
    results: Results = DEFAULT_RESULTS,
    metric: Annotated[
        list[str] | None, typer.Option("--metric", help="Compare this metric, or all; more than once for several.")
    ] = None,
    stage: Annotated[list[str] | None, typer.Option("--stage", help="Compare this stage alone; may repeat.")] = None,
    across: Annotated[
        str,
        typer.Option(
            "--across",
            help="Conditions that may differ (tokens,dtype,data,window; all for every one): where a recipe takes other "
            "sizes on another machine.",
            metavar="KEY,…",
        ),
    ] = "",
    fail_over: Annotated[str, typer.Option("--fail-over", help=_FAIL_OVER, metavar="PERCENT")] = "",
    everything: Annotated[bool, typer.Option("--all", help="List what cannot be told apart too.")] = False,
    style: Annotated[str, typer.Option("--format", help="text or markdown (for a pull request).")] = "text",
    as_json: AsJson = False,
) -> None:
    """Compare two studies, files, commits or machines: what differs for certain, what is lost, what carries over.

    Rows are matched by all that they measured. On the same devices they are paired by round; between machines time is
    the share of each one's calibrated limit, and conclusions about techniques are held against each other.
    """
    if style not in _FORMATS:
        raise UserError(f"--format: {style!r} is none of {', '.join(_FORMATS)}.")
    from efficientllm.analysis.comparison_table import Options, compare_sides

    options = Options(
        metrics=tuple(metric or ()),
        stages=tuple(stage or ()),
        across=tuple(word.strip() for word in across.split(",") if word.strip()),
        fail_over=_ratio(fail_over) if fail_over else None,
    )
    table = compare_sides(*_sides(a, b, results), options)
    if as_json:
        import msgspec

        typer.echo(msgspec.json.encode(table).decode())
    elif style == "markdown":
        from efficientllm.report.comparison_text import comparison_markdown

        typer.echo(comparison_markdown(table, everything=everything), nl=False)
    else:
        from rich.console import Console

        from efficientllm.report.comparison_text import print_comparison

        print_comparison(table, Console(), everything=everything)
    if table.regressions:
        raise typer.Exit(1)


def _ratio(text: str) -> float:
    """Return a limit as a ratio.

    >>> _ratio("5%"), _ratio("2.5 %"), _ratio("5")
    (0.05, 0.025, 0.05)
    """
    number, percent = text.removesuffix("%").strip(), text.endswith("%")
    try:
        value = float(number)
    except ValueError:
        value = -1.0
    if not 0 <= value < 100 or (0 < value < 1 and not percent):
        raise UserError(f"--fail-over {text!r}: give a percentage from 0% to below 100%, for example 5%.")
    return value / 100


def _sides(a: str, b: str, results: Path) -> tuple[Side, Side]:
    from efficientllm.analysis.comparison_side import chosen, make_side
    from efficientllm.store.sources import is_source, read_source

    found = []
    for text in (a, b):
        name, _, selector = (
            (text, "", "") if is_source(text, results) else text.rpartition("@") if "@" in text else (text, "", "")
        )
        studies, problems = read_source(name, results)
        found.append((chosen(studies, selector), problems))
    by_study = all(len(studies) > 1 for studies, _ in found)
    first, second = (
        make_side(text, studies, problems, by_study=by_study)
        for text, (studies, problems) in zip((a, b), found, strict=True)
    )
    return first, second


ENTRY = compare
