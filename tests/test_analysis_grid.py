"""Many points in a table: at a glance, a grid a metric, and the batch at which a technique stops helping."""

import io

import pytest
from msgspec.structs import replace
from rich.console import Console

from efficientllm.analysis.examples import VARIANTS, example_study
from efficientllm.analysis.grid import apart
from efficientllm.analysis.leaderboard import study_table
from efficientllm.records.grid import Grid
from efficientllm.report.html import page
from efficientllm.report.markdown import markdown
from efficientllm.report.terminal import print_table

BATCHES = (1, 4, 16, 64)
GRID = tuple(Grid(batch=batch, tokens=512) for batch in BATCHES)


def slower(record, slope):
    """Make decode's steps of a record longer the larger the batch: by batch ** slope."""
    windows = []
    for window in record.windows:
        factor = window.coordinates.get("batch", 1) ** slope if window.name == "decode" else 1.0
        series = tuple(
            replace(s, values=tuple(v * factor for v in s.values)) if s.name == "step_s" else s for s in window.series
        )
        windows.append(replace(window, series=series))
    return replace(record, windows=tuple(windows))


@pytest.fixture(scope="module")
def study():
    """The invented study over a grid; mqa, 0.64 of mha's time at one sequence, loses that as the batch grows."""
    records = example_study(decode=GRID)
    return [slower(m, 0.2) if m.trial.technique() == "mqa" and m.trial.stage == "inference" else m for m in records]


@pytest.fixture(scope="module")
def table(study):
    return study_table("grid", study)


def grid_of(table, word):
    return next(section for section in table.grids if word in section.window)


def test_points_of_a_grid_have_no_table_of_their_own_and_all_figures_stand_in_the_grids(table):
    assert [section.window for section in table.shown()] == ["train", "prefill batch=1 tokens=512"]
    tpot = grid_of(table, "TPOT")
    assert [row.technique for row in tpot.rows] == [f"batch {batch}, 512 tokens" for batch in BATCHES]
    assert [column.title for column in tpot.columns] == ["mha (baseline)", "gqa", "mqa", "mla"]
    points = [section for section in table.sections if section.window.startswith("decode")]
    for row, section in zip(tpot.rows, points, strict=True):
        for other in section.rows:
            if other.cells:
                assert row.cells[other.technique] == other.cells["latency_median"]


def test_what_ran_out_of_memory_says_so_in_the_grid_and_at_a_glance(table):
    assert grid_of(table, "TPOT").rows[-1].cells["mha"].absent == "out of memory"
    baseline = next(row for row in grid_of(table, "glance").rows if row.baseline)
    assert "1 of 5 points gave no figure: 1 out of memory" in baseline.reason


def test_at_a_glance_a_technique_is_one_row_with_its_ends_its_bytes_and_its_quality(table):
    glance = grid_of(table, "glance")
    assert [row.technique for row in glance.rows] == [variant.name for variant in VARIANTS]
    titles = [column.title for column in glance.columns]
    assert titles[:3] == ["TTFT 1×512", "TPOT 1×512", "TPOT 16×512"]  # the largest point that the baseline has
    assert titles[-5:] == ["Compression", "Bits/byte", "Weights", "Weights on disk", "Cache a token"]
    mqa = next(row for row in glance.rows if row.technique == "mqa")
    assert mqa.cells["weight_bytes"].value == pytest.approx(4 * 4_080_000)
    assert mqa.cells["cache_bytes_per_token"].value == 1024


def test_the_batch_at_which_a_technique_stops_helping_is_told_with_its_interval(table):
    (section,) = table.crossovers
    (column,) = section.columns
    said = {row.technique: row.cells[column.key] for row in section.rows}
    # 0.64 * batch ** 0.2 is 1 at 9.3; the baseline has no figure at 64
    assert said["mqa"].low < 9.3 < said["mqa"].high
    assert said["mqa"].text.startswith("between 4 and 16: 9.")
    assert said["gqa"].text == "helps at every measured batch (1 to 16)"
    assert said["mla"].text == "never (1 to 16)"
    sentence = next(text for text in table.verdict if "stops helping" in text)
    assert "decode, 512 tokens" in sentence and "mqa between 4 and 16" in sentence


def test_every_report_shows_grids_and_crossings(table, study):
    console = Console(width=100, record=True, file=io.StringIO())
    print_table(table, console)
    for text in (console.export_text(), markdown(table), page(table, study)):
        for said in ("at a glance", "TPOT at each point", "batch 16, 512 tokens", "between 4 and 16: 9."):
            assert said in text
    assert "<details>\n      <summary>inference · decode: Memory at each point</summary>" in page(table, study)


def test_claims_are_held_to_the_ends_of_a_grid_not_to_every_point(table):
    windows = [section.window for section in apart(table.sections) if section.window.startswith("decode")]
    assert windows == ["decode batch=1 tokens=512", "decode batch=16 tokens=512"]


def test_few_points_stand_in_tables_of_their_own_as_before():
    table = study_table("few", example_study())
    assert table.shown() == table.sections
    assert table.grids == ()


def test_without_a_baseline_or_a_second_batch_there_is_no_crossing():
    one = study_table("one", example_study(decode=GRID[:1]))
    assert one.crossovers == ()
    nobody = [replace(m, trial=replace(m.trial, baseline=False)) for m in example_study(decode=GRID)]
    assert study_table("none", nobody).crossovers == ()
