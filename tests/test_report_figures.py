"""Figures for papers: every kind in every format, the same bytes from the same study, fonts inside."""

from __future__ import annotations

import re
import sys
import xml.etree.ElementTree as Xml
from pathlib import Path

import pytest
from msgspec.structs import replace
from typer.testing import CliRunner

from efficientllm import report
from efficientllm.analysis.examples import VARIANTS, example_study
from efficientllm.analysis.leaderboard import study_table
from efficientllm.analysis.table import Cell
from efficientllm.cli.main import build_app
from efficientllm.errors import ResultsError, UserError
from efficientllm.report.figures.write import FORMATS, write_figures
from efficientllm.report.plane import standings
from efficientllm.store.folder import Study

STUDY = [m for m in example_study(kind="cuda", energy=True) if m.trial.stage == "pretrain"]
TABLE = study_table("quickstart", STUDY)
ONE = [m for m in STUDY if m.trial.technique() == "mqa"]  # nothing to compare: curves and a roofline, quickly drawn
COLUMN_PT = 3.35 * 72


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("figures")
    return {file.name: file.read_bytes() for file in write_figures(TABLE, STUDY, folder, "svg")}


def test_each_window_has_trade_offs_bars_and_its_roofline_and_each_stage_its_curves(written):
    pairs = ("latency_median-bits_per_byte", "latency_median-memory_mean", "bits_per_byte-memory_mean")
    assert set(written) == {
        *(f"pareto-pretrain-{pair}.svg" for pair in pairs), "bars-pretrain.svg", "roofline-pretrain.svg",
        "training-pretrain-tokens.svg", "training-pretrain-time.svg",
    }  # fmt: skip


def test_an_svg_is_a_column_wide_undated_and_needs_no_font(written):
    for body in written.values():
        root = Xml.fromstring(body)
        assert float(root.attrib["width"].removesuffix("pt")) == pytest.approx(COLUMN_PT)
        assert b"<dc:date>" not in body
        assert not list(root.iter("{http://www.w3.org/2000/svg}text"))  # glyphs are outlines


def test_techniques_have_the_colours_that_the_page_gives_them(written):
    css = (Path(report.__file__).parent / "page.css").read_text()
    first = re.findall(r"--c\d: light-dark\((#\w{6})", css)[: len(VARIANTS)]
    body = written["training-pretrain-tokens.svg"].decode()
    assert all(colour in body for colour in first)


@pytest.mark.parametrize("style", FORMATS)
def test_the_same_study_gives_the_same_bytes(style, tmp_path):
    few = ONE if style == "svg" else [replace(m, windows=m.windows[1:]) for m in ONE]  # without their curves: quicker
    table = study_table("q", few)
    one, two = (write_figures(table, few, tmp_path / str(i), style) for i in (1, 2))
    assert len(one) == (3 if style == "svg" else 1)
    assert [file.read_bytes() for file in one] == [file.read_bytes() for file in two]
    if style == "pdf":
        assert all(b"/FontFile2" in file.read_bytes() and b"CreationDate" not in file.read_bytes() for file in one)


def test_the_command_writes_a_folder_and_names_its_files(tmp_path):
    for record in ONE:
        Study(tmp_path, "mine").write(record)
    words = ["report", "mine", "--results", str(tmp_path), "--format", "png"]
    done = CliRunner().invoke(build_app(), words)
    assert done.exit_code == 0, done.output
    assert sorted(done.output.split()) == sorted(str(file) for file in (tmp_path / "mine" / "figures").iterdir())


def test_without_matplotlib_one_line_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match=r"efficientllm\[figures\]") as caught:
        write_figures(TABLE, STUDY, tmp_path, "svg")
    assert "\n" not in str(caught.value)


def test_a_study_without_figures_says_so(tmp_path):
    with pytest.raises(ResultsError, match="nothing to draw"):
        write_figures(study_table("q", []), [], tmp_path, "svg")


def _cell(value: float, half: float | None) -> Cell:
    return Cell(value=value) if half is None else Cell(value=value, low=value - half, high=value + half)


@pytest.mark.parametrize(
    ("half", "beaten"), [(None, ("a",)), (0.4, ("a",)), (0.6, ())], ids=["no intervals", "apart", "overlapping"]
)
def test_a_point_is_faded_only_where_it_is_beaten_beyond_the_intervals(half, beaten):
    points = [("a", _cell(1, half), _cell(1, half)), ("b", _cell(2, half), _cell(1, half))]
    found = standings(points, ("low", "low"))
    assert found["a"].front and not found["b"].front
    assert found["b"].beaten_by == beaten
    turned = standings(points, ("high", "low"))
    assert turned["b"].front and turned["a"].beaten_by == tuple("b" for _ in beaten)


def test_a_metric_without_a_better_side_makes_no_front():
    assert standings([("a", _cell(1, None), _cell(1, None))], ("", "low")) == {}
