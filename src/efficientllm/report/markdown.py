"""A study's table as GitHub Markdown, for a README or a pull request."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from efficientllm.analysis.table import Cell, Column, Row, Section, StudyTable
from efficientllm.report import marks
from efficientllm.report.marks import Footnotes

_MOST_LEFT_OUT = 10


def markdown(table: StudyTable) -> str:
    """Write a study: verdict, one table a section, footnotes, legend, and what a reader must know of it.

    What a reader of a pull request looks at second is folded: grids of further metrics, equal budgets, text by text.

    >>> from efficientllm.analysis.examples import example_study
    >>> from efficientllm.analysis.leaderboard import study_table
    >>> markdown(study_table("quickstart", example_study(), "Four variants")).splitlines()[0]
    '## quickstart: Four variants'
    """
    notes = Footnotes()
    title = f": {escape(table.title)}" if table.title else ""
    lines = [f"## {escape(table.study)}{title}", ""]
    lines += [f"- {escape(sentence)}" for sentence in table.verdict]
    for section in (*table.shown(), *(grid for grid in table.grids if not grid.minor)):
        lines += ["", *_section(section, notes)]
    second = (*(grid for grid in table.grids if grid.minor), *table.crossovers, *table.budgets, *table.quality)
    for section in (*second, *table.rank_changes):
        lines += ["", *_folded(section, notes)]
    lines += ["", *_notes(table, notes)]
    return "\n".join(lines).rstrip() + "\n"


def escape(text: str) -> str:
    r"""Return a text that Markdown and HTML leave as it is, on one line.

    >>> escape("a|b <i> `x`")
    'a\\|b &lt;i&gt; \\`x\\`'
    """
    text = " ".join(text.split()).replace("\\", "\\\\").replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    for sign in "|`*_[]":
        text = text.replace(sign, f"\\{sign}")
    return text


def _folded(section: Section, notes: Footnotes) -> Iterator[str]:
    heading, *rest = _section(section, notes)
    yield f"<details><summary>{heading.removeprefix('### ')}</summary>"
    yield ""
    yield from rest
    yield ""
    yield "</details>"


def _section(section: Section, notes: Footnotes) -> Iterator[str]:
    yield f"### {escape(marks.heading(section.stage, section.window))}"
    said = ", ".join(f"{key} {value}" for key, value in section.conditions.items() if key != "machine")
    if said:
        yield f"<sub>{escape(said)}</sub>"
    yield ""
    yield "| | " + " | ".join(escape(column.title) for column in section.columns) + " |"
    yield "|:--|" + "--:|" * len(section.columns)
    for row in section.rows:
        yield _row(row, section.columns, notes)


def _row(row: Row, columns: Sequence[Column], notes: Footnotes) -> str:
    name = escape(row.technique) + (" (baseline)" if row.baseline else "")
    if not row.cells:
        note = _note(notes, row.reason)
        rest = f" –{note} |" * (len(columns) - 1)
        return f"| {name} | {marks.OUTCOMES.get(row.outcome, row.outcome)}{note} |{rest}"
    partial = _note(notes, row.reason) if row.reason else ""
    stated = marks.stated_text(row)
    head = f"{name}{partial}<br><sub>{stated}</sub>" if stated else f"{name}{partial}"
    cells = [_cell(column, row.cells.get(column.key, Cell(absent="not in this section")), notes) for column in columns]
    return f"| {head} | " + " | ".join(cells) + " |"


def _cell(column: Column, cell: Cell, notes: Footnotes) -> str:
    if cell.text:
        return escape(cell.text)
    if cell.value is None:
        return f"–{_note(notes, cell.absent)}"
    figure = f"{marks.figure_text(column, cell.value)} {marks.SIGNS.get(cell.verdict, '')}".strip()
    if cell.rank == 1:
        figure = f"**{figure}**"
    evidence = " ".join(text for text in (marks.evidence_text(cell), marks.rank_text(cell)) if text)
    return f"{figure}<br><sub>{escape(evidence)}</sub>"


def _note(notes: Footnotes, reason: str) -> str:
    return f"<sup>{notes.number(reason)}</sup>"


def _notes(table: StudyTable, notes: Footnotes) -> Iterator[str]:
    for reason, number in notes.reasons.items():
        yield f"<sup>{number}</sup> {escape(reason)}  "
    yield ""
    yield from (f"- {escape(text)}" for text in marks.LEGEND)
    yield from (f"- {escape(text)}" for text in marks.sanity_texts(table.sanity))
    yield from (f"- {escape(choice)}" for choice in table.choices)
    yield from (f"- {escape(environment)}" for environment in table.environments)
    yield from (f"- caution {escape(caution.code)}: {escape(caution.text)}" for caution in table.cautions)
    yield from (f"- left out: {escape(text)}" for text in table.left_out[:_MOST_LEFT_OUT])
    if len(table.left_out) > _MOST_LEFT_OUT:
        yield f"- left out: {len(table.left_out) - _MOST_LEFT_OUT} more"
