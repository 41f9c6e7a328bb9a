"""`rank` and `pareto` on stored studies: what is printed, what a program reads, what damaged files do."""

from __future__ import annotations

import json
import os

import pytest
from rich.cells import cell_len
from typer.testing import CliRunner

from efficientllm.analysis.examples import example_study
from efficientllm.cli.main import build_app
from efficientllm.errors import UserError
from efficientllm.records.codec import encode
from efficientllm.store.folder import Study


@pytest.fixture
def results(tmp_path):
    study = Study(tmp_path, "four")
    study.check_writable()
    for record in example_study(kind="cuda", energy=True):
        study.measurement_file(record.id).write_bytes(encode(record))
    return tmp_path


def run(results, *words, width=100):
    done = CliRunner().invoke(build_app(), [*words, "--results", str(results)], env={"COLUMNS": str(width)})
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.stdout


def test_a_ranking_fits_into_100_columns_and_says_how_sure_it_is(results):
    text = run(results, "rank")
    assert max(cell_len(line) for line in text.splitlines()) <= 100
    first = next(line for line in text.splitlines() if line.startswith("mqa"))
    assert "1003 MiB #2" in first and "507 ms =1" in first
    assert "in equal parts" in text and "of the draws" in text and "Front" in text
    assert "mha (baseline)  out of memory: OutOfMemoryError" in text


@pytest.mark.parametrize("words", [("rank",), ("pareto", "--where", "memory_peak<=1GiB")])
@pytest.mark.parametrize("width", [40, 60, 200])
def test_no_figure_is_cut_at_any_width(results, words, width):
    text = run(results, *words, "--stage", "pretrain", width=width)
    for figure in ("507 ms", "520 ms", "641 ms"):
        assert figure in text
    assert "…" not in text.replace("0.1 … 1", "")


def test_the_parts_stand_beside_the_score_for_a_program(results):
    found = json.loads(run(results, "rank", "--json", "--weights", "memory=2,energy=1", "--metric", "memory"))
    ranking = found["rankings"][0]
    assert ranking["weights"] == {"memory_mean": 2.0, "energy_per_token": 1.0}
    assert set(ranking["rows"][0]["parts"]) == {"memory_mean", "energy_per_token"}
    assert ranking["conditions"]["device"] == "NVIDIA H200"


def test_a_front_says_who_is_beaten_by_whom_and_by_what(results):
    text = " ".join(run(results, "pareto", "--metrics", "latency,memory", "--stage", "pretrain").split())
    assert "mha is beaten by mqa: Memory 16 % less (16–16 %), Step 3.8 % less (0.24–7.1 %)" in text
    found = json.loads(run(results, "pareto", "--metrics", "latency,memory", "--json"))
    assert {row["state"] for row in found["fronts"][0]["rows"]} == {"front", "beaten"}


def test_a_limit_is_said_row_by_row_where_it_is_not_kept(results):
    text = run(results, "pareto", "--where", "quality<=+1%", "--where", "memory_peak<=1GiB", "--stage", "pretrain")
    assert "mqa, quality<=+1%: cannot be told (2.37, 3 repeats)" in text
    assert "mha, memory_peak<=1GiB: is out (1.17 GiB, 3 repeats)" in text


def test_which_study_is_asked_where_there_are_several_and_a_wrong_name_gets_the_nearest(results):
    Study(results, "five").check_writable()
    with pytest.raises(UserError, match=r"which study\? .*five, four"):
        run(results, "rank")
    with pytest.raises(UserError, match="Did you mean 'four'"):
        run(results, "rank", "fuor")


def test_damaged_files_are_left_out_by_name_whatever_is_wrong_with_them(results):
    files = Study(results, "four").files()
    whole = [file.read_text() for file in files[:3]]
    files[0].write_text(whole[0][: len(whole[0]) // 2])
    files[1].write_text(whole[1].replace('"values":[', '"values":["x",', 1))  # in a series: no outline shows it
    files[2].write_text(whole[2].replace(f'"id":"{files[2].stem}"', '"id":"somebody-else-0"', 1))
    found = json.loads(run(results, "rank", "four", "--json"))
    for file in files[:3]:
        assert sum(text.startswith(f"four/{file.name}: ") for text in found["left_out"]) == 1


def test_a_figure_that_is_edited_in_its_file_is_read_anew(results):
    before = json.loads(run(results, "rank", "--json", "--metric", "latency"))
    for file in Study(results, "four").files():
        text = file.read_text()
        if '"mixer":"mla"' in text and '"workload":"pretrain"' in text:
            times = file.stat()
            file.write_text(text.replace("0.6", "0.3"))
            os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))  # as large and as old as before
    after = json.loads(run(results, "rank", "--json", "--metric", "latency"))
    value = {}
    for name, told in (("before", before), ("after", after)):
        rows = told["rankings"][0]["rows"]
        value[name] = next(r for r in rows if r["row"]["technique"] == "mla")["row"]["cells"]["latency_median"]["value"]
    assert value["after"] < 0.6 * value["before"]


@pytest.mark.parametrize("weights", ["memory", "memory=much", "memory=1;energy=2"])
def test_weights_that_cannot_be_read_are_refused(results, weights):
    with pytest.raises(UserError, match="--weights"):
        run(results, "rank", "--weights", weights)
