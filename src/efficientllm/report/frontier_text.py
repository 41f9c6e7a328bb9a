"""Fronts on the terminal: the table, then in words who is beaten by whom, and by what."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console
from rich.text import Text

from efficientllm.analysis.catalogue import group_of
from efficientllm.analysis.frontier import Beating, Front, Fronts, Gain, Placed
from efficientllm.analysis.table import Cell, Column
from efficientllm.report import marks
from efficientllm.report.blocks import Line, heading_line, table_lines
from efficientllm.report.marks import Footnotes
from efficientllm.report.printer import Printer
from efficientllm.report.ranking_text import ended_text, print_ends, share_text
from efficientllm.units import percent_text, significant

_STATES = {"front": "◆ on front", "beaten": "beaten", "out": "out", "no figure": "–"}
_STYLES = {"front": "green", "out": "magenta"}
#: From this ratio on a difference is said as a multiple.
_MANY = 2.0

LEGEND = (
    "◆ no row is shown better in one of these metrics and no worse in the others; beneath: how probably none truly is",
    "out: shown past a limit; ? under a limit: it cannot be told whether it is kept, so the row stays",
)


def print_fronts(found: Fronts, console: Console) -> None:
    """Print fronts, what was not ranked, and the legend.

    Args:
        found: from `analysis.frontier.fronts`.
        console: its width decides how many columns stand beside each other.
    """
    page, notes = Printer(console), Footnotes()
    several = len({study for one in found.fronts for study in one.studies}) > 1
    for one in found.fronts:
        _print_one(one, several, notes, page, console)
    if not found.fronts:
        page.item("Nothing here has a front of these metrics.", bullet="")
    legend = LEGEND[: 2 if any(row.limits for one in found.fronts for row in one.rows) else 1]
    print_ends(page, notes, legend if found.fronts else (), found)


def _print_one(one: Front, several: bool, notes: Footnotes, page: Printer, console: Console) -> None:
    page.line(Text())
    page.line(heading_line(one.stage, one.window, one.conditions))
    if one.apart:
        page.item(one.apart, style="dim", bullet="≠")
    rows = [row for row in one.rows if row.row.cells]
    limits = [limit.limit for limit in rows[0].limits] if rows else []
    titles = ["Front", *(column.title for column in one.columns), *limits]
    grid = [[_state(row), *(_cell(one, row, column, notes) for column in one.columns), *_kept(row)] for row in rows]
    for line in table_lines([_name(row, several) for row in rows], titles, grid, console.width):
        page.line(line)
    for ended in (row.row for row in one.rows if not row.row.cells):
        page.item(ended_text(ended), style="magenta", bullet="")
    columns = {column.key: column for column in one.columns}
    for row in rows:
        for beating in row.beatings:
            page.item(beating_text(row.row.technique, beating, columns), bullet="•")
        for limit in row.limits:
            if limit.verdict != "in":
                word = "is out" if limit.verdict == "out" else "cannot be told"
                page.item(f"{row.row.technique}, {limit.limit}: {word} ({limit.why})", bullet="•")
    left = [column.title for column in one.columns if column.key in one.too_few]
    if left:
        page.item(f"not part of the front: {', '.join(left)} (fewer than two rows have it)", style="dim", bullet="")
    if one.uncertain and one.front_of:
        page.item(f"no probabilities: {one.uncertain}", style="dim", bullet="")


def _name(row: Placed, several: bool) -> Line:
    name = Text(row.row.technique, style="bold")
    name.append(" (baseline)" if row.row.baseline else "", style="not bold")
    return Line(name, Text(", ".join(row.studies) if several else "", style="dim"))


def _state(row: Placed) -> Line:
    return Line(Text(_STATES[row.state], style=_STYLES.get(row.state, "")), Text(share_text(row.probability), "dim"))


def _cell(one: Front, row: Placed, column: Column, notes: Footnotes) -> Line:
    cell = row.row.cells.get(column.key, Cell(absent="not in this section"))
    if cell.value is None:
        return Line(Text(f"–{notes.mark(cell.absent)}"), Text())
    why = one.floored.get(row.row.technique, "") if group_of(column.key) == "quality" else ""
    figure = f"{marks.figure_text(column, cell.value)}{notes.mark(why) if why else ''}"
    return Line(Text(figure), Text(marks.evidence_text(cell), style="dim"))


def _kept(row: Placed) -> list[Line]:
    signs = {"in": "kept", "out": "out", "cannot tell": "?"}
    return [Line(Text(signs[limit.verdict]), Text()) for limit in row.limits]


def beating_text(name: str, beating: Beating, columns: Mapping[str, Column]) -> str:
    """Say by whom a row is beaten, and by what.

    >>> gain = Gain(metric="latency_median", word="better", ratio=0.8, low=0.75, high=0.85, n=3)
    >>> column = Column(key="latency_median", title="Step", unit="s", better="low")
    >>> beating_text("mha", Beating(by="mqa", gains=(gain,)), {"latency_median": column})
    'mha is beaten by mqa: Step 20 % less (15–25 %)'
    """
    gains = [_gain_text(columns[gain.metric], gain) for gain in beating.gains]
    return f"{name} is beaten by {beating.by}: {', '.join(gains)}"


def _gain_text(column: Column, gain: Gain) -> str:
    if gain.word == "equivalent":
        return f"{column.title} equivalent"
    said = "differs" if gain.ratio is None else _difference(gain.ratio, gain.low, gain.high)
    if gain.word == "unresolved":
        said += " by the estimates alone" if gain.n < 3 else ", which is within the noise"
    return f"{column.title} {said}"


def _difference(ratio: float, low: float | None, high: float | None) -> str:
    if ratio == 1.0:
        return "the same"
    if ratio >= _MANY:
        ends = f" ({significant(low)}–{significant(high)}×)" if low is not None and high is not None else ""
        return f"{significant(ratio)}× as much{ends}"
    side = 1 if ratio > 1 else -1
    ends = ""
    if low is not None and high is not None:
        near, far = sorted((side * (low - 1), side * (high - 1)))
        ends = f" ({significant(100 * near, 2)}–{percent_text(far, 2)})"
        if near < 0:
            ends = f" (−{significant(-100 * near, 2)} to {percent_text(far, 2)})"
    return f"{percent_text(abs(ratio - 1), 2)} {'more' if side > 0 else 'less'}{ends}"
