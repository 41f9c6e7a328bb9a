"""The table on a terminal: whole at any width, readable without colour, nothing unexplained."""

from __future__ import annotations

import io
import re

import pytest
from msgspec.structs import replace
from rich.cells import cell_len
from rich.console import Console

from efficientllm.analysis.examples import example_study
from efficientllm.analysis.leaderboard import study_table
from efficientllm.analysis.table import StudyTable
from efficientllm.report import marks
from efficientllm.report.terminal import print_table

TABLE = study_table("quickstart", example_study(), "Four attention variants")


def printed(table: StudyTable = TABLE, width: int = 110, colour: bool = False) -> str:
    stream = io.StringIO()
    print_table(
        table, Console(file=stream, width=width, force_terminal=colour, color_system="standard" if colour else None)
    )
    return stream.getvalue()


def figures(table: StudyTable) -> list[str]:
    return [
        marks.figure_text(column, row.cells[column.key].value)
        for section in table.sections
        for row in section.rows
        if row.cells
        for column in section.columns
        if row.cells[column.key].value is not None
    ]


@pytest.mark.parametrize("width", [200, 120, 104, 80, 60, 40, 20])
def test_no_figure_is_ever_cut(width):
    text = printed(width=width)
    for figure in figures(TABLE):
        assert figure in text
    assert "…" not in text


def test_four_techniques_and_all_columns_fit_side_by_side_into_104_columns():
    table_lines = [
        line for line in printed(width=104).splitlines() if line.startswith(("mha", "gqa", "mqa", "mla", "◆"))
    ]
    assert max(cell_len(line) for line in table_lines) <= 104
    assert sum(line.startswith("gqa") for line in table_lines) == len(TABLE.sections) + len(TABLE.budgets)


@pytest.mark.parametrize("width", [80, 60])
def test_on_a_narrow_terminal_the_columns_stand_in_several_blocks(width):
    lines = [line for line in printed(width=width).splitlines() if line.startswith(("gqa", "◆"))]
    assert max(cell_len(line) for line in lines) <= width
    assert sum(line.startswith("gqa") for line in lines) > len(TABLE.sections)


def test_the_baseline_is_the_first_row_and_marked():
    rows = [line for line in printed().splitlines() if re.match(r"(mha|gqa|mqa|mla)\b", line)]
    assert rows[0].startswith("mha (baseline)")


def test_better_and_worse_read_without_colour():
    text = printed()
    assert "503 ms ▲" in text and "637 ms ▼" in text and "518 ms ?" in text
    assert "▲ better, ▼ worse" in text
    assert "\x1b[" not in text


def test_signs_are_coloured_where_the_terminal_can():
    assert re.search(r"503 ms\x1b\[32m ▲", printed(colour=True))


def test_a_shared_rank_reads_otherwise_than_a_sole_one():
    line = next(line for line in printed().splitlines() if "±2.1 %" in line and "#4" in line)
    assert "=2" in line and "=1" in line


def test_reasons_are_listed_once_below():
    text = printed()
    assert (
        text.count("no energy counter: /sys/class/powercap has no intel-rapl here (virtual machines seldom do)\n") == 1
    )
    assert text.count("–¹") == sum(1 for s in (*TABLE.sections, *TABLE.budgets) for row in s.rows if row.cells)


def test_a_row_without_figures_says_how_it_ended():
    assert "mha (baseline)  out of memory: OutOfMemoryError: tried to allocate 2.31 GiB for the cache" in printed()


def test_a_console_that_knows_ascii_only_gets_ascii():
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    print_table(TABLE, Console(file=stream, width=110))
    stream.flush()
    text = stream.buffer.getvalue().decode("ascii")
    assert "503 ms +" in text and "637 ms -" in text and "+ better, - worse" in text
    assert "1.06x" in text


def test_markup_in_a_name_is_printed_as_it_is():
    row = replace(TABLE.sections[0].rows[1], technique="[red]x[/red]")
    section = replace(TABLE.sections[0], rows=(TABLE.sections[0].rows[0], row))
    assert "[red]x[/red]" in printed(replace(TABLE, sections=(section,)))


def test_many_left_out_records_are_counted_not_listed():
    text = printed(replace(TABLE, left_out=tuple(f"record {i}: crashed" for i in range(9))))
    assert "record 4: crashed" in text and "record 5: crashed" not in text
    assert "4 more" in text


def test_an_empty_study_prints_its_verdict():
    text = printed(study_table("nothing", []))
    assert "Nothing was measured yet." in text and "▲" not in text
