"""Rankings on the terminal: a table a group, best score first, each place with how sure it is.

pretrain  tiny, float32 …
            Score      Memory        Step   …   Front
mqa       0.71 =1  114 MiB #1  69.0 ms =1       ◆ 98 %   ← figure and rank; whether on the front
‡       0.55–0.83        97 %        41 %                ← 95 % of the score's draws; chance of being best
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from efficientllm.analysis.catalogue import group_of
from efficientllm.analysis.frontier import Fronts
from efficientllm.analysis.ranking import Ranked, Ranking, Rankings
from efficientllm.analysis.table import Cell, Column, Row
from efficientllm.report import marks
from efficientllm.report.blocks import Line, heading_line, table_lines
from efficientllm.report.marks import Footnotes
from efficientllm.report.printer import Printer
from efficientllm.units import significant

_BOUND = "‡"
_MOST_LEFT_OUT = 5

LEGEND = (
    "#1 rank: 1 + the rows shown better, all pairs tested, Holm-corrected, 5 %; =1 shared with a row of the same rank",
    "% under a figure: how probably the row is best of all in that metric, by draws of what the true figures may be",
    "score: each metric scaled over these rows to 0.1 … 1, then their weighted harmonic mean; 95 % of its draws below",
    "front: how probably no row is better in all of its metrics; ◆ no row is shown to be",
)


def print_rankings(found: Rankings, console: Console) -> None:
    """Print rankings, what was not ranked, and the legend.

    Args:
        found: from `analysis.ranking.rankings`.
        console: its width decides how many columns stand beside each other.
    """
    page = Printer(console)
    notes = Footnotes()
    for ranking in found.rankings:
        _print_one(ranking, len({s for one in found.rankings for s in one.studies}) > 1, notes, page, console)
    if not found.rankings:
        page.item("Nothing here can be ranked.", bullet="")
    legend = LEGEND if found.rankings else ()
    print_ends(page, notes, legend, found)


def print_ends(page: Printer, notes: Footnotes, legend: Sequence[str], found: Rankings | Fronts) -> None:
    """Print what stands beneath all tables: footnotes, the legend, and what is not in them."""
    page.line(Text())
    for reason in notes.reasons:
        page.item(reason, bullet=notes.mark(reason))
    for text in found.not_ranked:
        page.item(f"not ranked: {text}", bullet="!")
    for text in legend:
        page.item(text, style="dim", bullet="")
    if found.more:
        text = f"{found.more} more tables are not shown: ask by --stage, --window or --rows, or for --all or --json"
        page.item(text, bullet="!")
    if found.not_shown:
        points = "1 point of a grid is" if found.not_shown == 1 else f"{found.not_shown} points of grids are"
        page.item(f"{points} not shown: --all, or --window with its name", style="dim", bullet="")
    for text in found.left_out[:_MOST_LEFT_OUT]:
        page.item(f"left out: {text}", style="dim", bullet="")
    if len(found.left_out) > _MOST_LEFT_OUT:
        page.item(f"left out: {len(found.left_out) - _MOST_LEFT_OUT} more, in --json", style="dim", bullet="")


def _print_one(ranking: Ranking, several: bool, notes: Footnotes, page: Printer, console: Console) -> None:
    page.line(Text())
    page.line(heading_line(ranking.stage, ranking.window, ranking.conditions))
    if ranking.apart:
        page.item(ranking.apart, style="dim", bullet="≠")
    rows = [row for row in ranking.rows if row.row.cells]
    titles = [*(["Score"] if ranking.weights else []), *(column.title for column in _with_figures(ranking)),
              *(["Front"] if ranking.front_of else [])]  # fmt: skip
    names = [_name(row, several and len(ranking.studies) > 1) for row in rows]
    for line in table_lines(names, titles, [_cells(ranking, row, notes) for row in rows], console.width):
        page.line(line)
    for ended in (row.row for row in ranking.rows if not row.row.cells):
        page.item(ended_text(ended), style="magenta", bullet="")
    for text in _told(ranking, several):
        page.item(text, style="dim", bullet="")


def _with_figures(ranking: Ranking) -> list[Column]:
    """Return the columns in which some row has a figure; why the others have none is said below the table."""
    rows = [row.row.cells for row in ranking.rows if row.row.cells]
    return [column for column in ranking.columns if any(cells[column.key].value is not None for cells in rows)]


def ended_text(row: Row) -> str:
    """Say how a row without figures ended."""
    return f"{row.technique}{' (baseline)' if row.baseline else ''}  {marks.outcome_text(row)}"


def _name(ranked: Ranked, several: bool) -> Line:
    name = Text(ranked.row.technique, style="bold")
    name.append(" (baseline)" if ranked.row.baseline else "", style="not bold")
    said = ([_BOUND] if ranked.bound_with else []) + ([", ".join(ranked.studies)] if several else [])
    return Line(name, Text(" ".join(said), style="dim"))


def _cells(ranking: Ranking, ranked: Ranked, notes: Footnotes) -> list[Line]:
    cells = [_score(ranked)] if ranking.weights else []
    cells += [_cell(ranking, ranked, column, notes) for column in _with_figures(ranking)]
    return cells + ([_front(ranked)] if ranking.front_of else [])


def _score(ranked: Ranked) -> Line:
    if ranked.score is None:
        return Line(Text("–"), Text())
    place = "" if ranked.score_rank is None else f" {'=' if ranked.score_tied else '#'}{ranked.score_rank}"
    ends = ""
    if ranked.score_low is not None and ranked.score_high is not None:
        ends = f"{ranked.score_low:.2f}–{ranked.score_high:.2f}"
    return Line(_placed(f"{ranked.score:.2f}", place, ranked.score_rank), Text(ends, style="dim"))


def _cell(ranking: Ranking, ranked: Ranked, column: Column, notes: Footnotes) -> Line:
    cell = ranked.row.cells.get(column.key, Cell(absent="not in this section"))
    if cell.value is None:
        return Line(Text(f"–{notes.mark(cell.absent)}"), Text())
    figure = marks.figure_text(column, cell.value)
    if cell.rank is None:
        why = ranking.floored.get(ranked.row.technique, "")
        return Line(Text(f"{figure}{notes.mark(why) if why and _is_quality(column) else ''}"), Text())
    share = ranked.best.get(column.key)
    return Line(_placed(figure, f" {marks.rank_text(cell)}", cell.rank), Text(share_text(share), style="dim"))


def _is_quality(column: Column) -> bool:
    return group_of(column.key) == "quality"


def _front(ranked: Ranked) -> Line:
    sign = marks.ON_FRONT if ranked.row.on_front else " "
    share = "" if ranked.front is None else share_text(ranked.front)
    known = ranked.row.on_front is not None
    return Line(Text(f"{sign} {share:>5}" if known else "–"), Text())


def _placed(figure: str, place: str, rank: int | None) -> Text:
    return Text(figure).append(f"{place:>3}", style="green" if rank == 1 else "dim")


def share_text(share: float | None) -> str:
    """Write a probability; one that the draws cannot tell from 0 or 1 is said so.

    >>> share_text(0.4216), share_text(0.99996), share_text(0.0), share_text(None)
    ('42 %', '>99 %', '<1 %', '')
    """
    if share is None:
        return ""
    if 0.01 <= share <= 0.99:
        return f"{100 * share:.0f} %"
    return ">99 %" if share > 0.5 else "<1 %"


def _told(ranking: Ranking, several: bool) -> list[str]:
    """Return what a reader must know of one ranking."""
    titles = {column.key: column.title for column in ranking.columns}
    said = [f"rows of {' and '.join(ranking.studies)}"] if several else []
    if ranking.weights:
        said.append(f"score of {_weights(ranking, titles)}{_first(ranking.rows)}")
    said += _absent(ranking, titles)
    if ranking.front_of:
        beaten = [f"{row.row.technique} by {', '.join(row.row.beaten_by)}" for row in ranking.rows if row.row.beaten_by]
        front_of = f"front of {', '.join(titles[key] for key in ranking.front_of)}"
        said.append(f"{front_of}: {'beaten ' + '; '.join(beaten) if beaten else 'no row is shown to be beaten'}")
    said += [f"no probabilities: {ranking.uncertain}"] if ranking.uncertain and ranking.front_of else []
    pairs = {" and ".join(sorted((row.row.technique, other))) for row in ranking.rows for other in row.bound_with}
    if pairs:
        said.append(f"{_BOUND} implementation_bound, of these implementations only: {'; '.join(sorted(pairs))} would "
                    "change places by time if they attained the same share of the hardware's limit")  # fmt: skip
    return said


def _absent(ranking: Ranking, titles: dict[str, str]) -> list[str]:
    """Say why metrics have no figures, and why others are not in the score; what has one reason stands together."""
    shown = {column.key for column in _with_figures(ranking)}
    rows = [row.row.cells for row in ranking.rows if row.row.cells]
    reasons: dict[tuple[str, str], list[str]] = {}
    for column in ranking.columns if rows else ():
        if column.key not in shown:
            reasons.setdefault(("not measured", rows[0][column.key].absent), []).append(column.title)
    for key, why in ranking.left_score.items():
        if key in shown:
            reasons.setdefault(("not in the score", why), []).append(titles[key])
    return [f"{what}: {', '.join(names)} ({why})" for (what, why), names in reasons.items()]


def _weights(ranking: Ranking, titles: dict[str, str]) -> str:
    names = [titles.get(key, key) for key in ranking.weights]
    if len(set(ranking.weights.values())) == 1:
        return f"{', '.join(names)} in equal parts" if len(names) > 1 else names[0]
    total = sum(ranking.weights.values())
    parts = [f"{name} {significant(weight)}" for name, weight in zip(names, ranking.weights.values(), strict=True)]
    return f"{', '.join(parts)} (of {significant(total)})"


def _first(rows: Sequence[Ranked]) -> str:
    """Say how surely the row on top is there."""
    top = rows[0]
    if top.score_first is None:
        return ""
    return f"; {top.row.technique} has the highest in {share_text(top.score_first)} of the draws"
