"""The table as Markdown: rows of equal length, nothing that breaks out of a cell."""

from __future__ import annotations

import re

from msgspec.structs import replace

from efficientllm.analysis.examples import example_study
from efficientllm.analysis.leaderboard import study_table
from efficientllm.report.markdown import escape, markdown

TABLE = study_table("quickstart", example_study(), "Four attention variants")
HOSTILE = "a|b\n<script>x</script> `c` [d](e) *f*"


def rows_of(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("|")]


def num_cells(row: str) -> int:
    return len(re.findall(r"(?<!\\)\|", row)) - 1


def test_all_rows_of_the_tables_have_as_many_cells():
    assert {num_cells(row) for row in rows_of(markdown(replace(TABLE, budgets=())))} == {8}
    assert {num_cells(row) for row in rows_of(markdown(replace(TABLE, sections=())))} == {5}


def test_figure_interval_verdict_and_rank_stand_in_the_cell():
    assert "**503 ms ▲**<br><sub>±0.6 % #1</sub>" in markdown(TABLE)


def test_every_footnote_that_is_referred_to_is_there():
    text = markdown(TABLE)
    referred = set(re.findall(r"(?:–|memory)<sup>(\d+)</sup>", text))
    explained = set(re.findall(r"^<sup>(\d+)</sup> \S", text, flags=re.M))
    assert referred == explained == {"1", "2"}


def test_names_and_reasons_cannot_break_out_of_their_cells():
    row = replace(TABLE.sections[0].rows[1], technique=HOSTILE)
    bad = replace(TABLE.sections[0].rows[2], cells={}, outcome="crashed", reason=HOSTILE)
    section = replace(TABLE.sections[0], rows=(row, bad), conditions={"model": HOSTILE})
    text = markdown(
        replace(TABLE, sections=(section,), budgets=(), verdict=(HOSTILE,), title=HOSTILE, left_out=(HOSTILE,))
    )
    assert {num_cells(row) for row in rows_of(text)} == {8}
    assert "<script>" not in text and "[d](e)" not in text and "`c`" not in text.replace("\\`", "")


def test_escaping_keeps_a_plain_text():
    assert escape("mqa 4.7 % less time") == "mqa 4.7 % less time"
