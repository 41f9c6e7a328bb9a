"""`query` over documented views, its export, and `load()` from Python: one truth for all."""

from __future__ import annotations

import csv
import json
import sqlite3
import sys

import pytest

import efficientllm
from efficientllm.analysis.catalogue import entries
from efficientllm.analysis.database import ask
from efficientllm.analysis.examples import example_study
from efficientllm.errors import ResultsError, UnknownNameError, UserError
from efficientllm.store import schema, views
from efficientllm.store.folder import Study

RECORDS = example_study(repeats=2)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Two studies, the second of half the records."""
    folder = tmp_path_factory.mktemp("query") / "results"
    for name, records in (("whole", RECORDS), ("part", RECORDS[::2])):
        study = Study(folder, name)
        for record in records:
            study.write(record)
    return folder


@pytest.fixture
def run(results, command_line):
    return command_line(results, columns=200)


def test_every_table_and_view_is_described_column_by_column(results):
    """What sqlite has is what `--tables` prints: no column without a meaning, none described that is not there."""
    described = views.described()
    ask("select 1", results, ["whole"])
    with sqlite3.connect(Study(results, "whole").index_file) as index:
        made = {name for (name,) in index.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'view')")}
        columns = {name: [row[1] for row in index.execute(f"PRAGMA table_info({name})")] for name in described}
    index.close()
    assert {name for name in made if not name.endswith("_rows")} == set(described) | {"about"}
    for name, one in described.items():
        assert one.meaning and columns[name] == list(one.columns)
        for column, told in one.columns.items():
            assert told.meaning, f"{name}.{column}"
            assert told.unit or told.kind.startswith("TEXT"), f"{name}.{column} is a number without a unit"


def test_tables_are_printed_for_people_and_programs(run):
    rows = json.loads(run("query", "--tables", "--json")[1])
    assert {row["table"] for row in rows} - {""} == set(views.described())
    assert "energy" in run("query", "--tables")[1]


def test_a_metric_is_asked_by_name_with_its_unit_and_whose_it_is(run, results):
    sql = "select technique, label, count(*) as n, unit from metrics where metric = 'latency_median' and value > 0 group by 1, 2"
    rows = json.loads(run("query", sql, "--study", "whole", "--json")[1])
    assert {"technique": "mqa", "label": "train", "n": 2, "unit": "s"} in rows
    assert len(rows) == 15  # four techniques in four windows, of which one ran out of memory


def test_what_is_absent_says_why(results):
    _, rows = ask("select distinct absent from metrics where metric = 'energy_per_token' and value is null", results)
    assert any("no energy counter" in reason for (reason,) in rows)
    _, rows = ask("select distinct absent from metrics where window_outcome = 'oom'", results, ["whole"])
    assert rows == [("oom: OutOfMemoryError: tried to allocate 2.31 GiB for the cache",)]
    _, rows = ask("select count(*) from metrics where (value is null) = (absent is null)", results)
    assert rows == [(0,)]


def test_every_metric_is_listed_with_its_meaning(results):
    _, rows = ask("select metric, unit, meaning from metric_info", results)
    assert {metric for metric, _, _ in rows} == {entry.column.key for entry in entries()}
    assert all(unit and meaning for _, unit, meaning in rows)


def test_several_studies_answer_together_and_their_tables_still_join(run, results):
    sql = "select study, count(*) from measurements m join windows w using (measurement) group by 1 order by 1"
    counted = {
        name: sum(len(r.windows) for r in records) for name, records in (("part", RECORDS[::2]), ("whole", RECORDS))
    }
    assert dict(ask(sql, results)[1]) == counted
    assert [row["study"] for row in json.loads(run("query", sql, "--all", "--json")[1])] == ["part", "whole"]
    both = json.loads(run("query", sql, "--study", "part", "--study", "whole", "--json")[1])
    assert len(both) == 2
    alone = ask("select sum(value), count(*) from metrics where study = 'whole'", results)[1]
    assert alone == ask("select sum(value), count(*) from metrics", results, ["whole"])[1]


@pytest.mark.parametrize("study", [("--study", "whole"), ("--all",)])
@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("drop table measurements", "only SELECT is answered"),
        ("insert into measurements select * from measurements", "only SELECT is answered"),
        ("delete from metric_rows", "only SELECT is answered"),
        (
            "select techique from metrics",
            "Did you mean 'technique'? Columns of metrics: measurement, window, id, study",
        ),
        ("select metric from metric", "Tables: figures, files, measurements"),
    ],
)
def test_what_writes_or_names_no_column_is_one_line(run, study, sql, said):
    code, out, err = run("query", sql, *study)
    assert code == 2 and not out and len(err.splitlines()) == 1 and said in err
    assert json.loads(run("query", "select count(*) as n from measurements", "--study", "whole", "--json")[1]) == [
        {"n": len(RECORDS)}
    ]


def test_an_answer_is_written_in_every_form_and_says_the_same(run, tmp_path):
    pytest.importorskip("pyarrow")
    import pyarrow.parquet

    sql = "select id, repeat, value, absent from metrics where metric = 'mfu' order by id, window"
    told = json.loads(run("query", sql, "--study", "whole", "--json")[1])
    files = {name: tmp_path / f"a.{name}" for name in ("csv", "json", "parquet")}
    for name, file in files.items():
        code, out, _ = run("query", sql, "--study", "whole", "-o", file)
        assert code == 0 and out.split() == [str(file)], name
    assert json.loads(files["json"].read_text()) == told
    assert pyarrow.parquet.read_table(files["parquet"]).to_pylist() == told
    with files["csv"].open() as lines:
        rows = list(csv.DictReader(lines))
    assert [float(row["value"]) if row["value"] else None for row in rows] == [row["value"] for row in told]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("query",), "or --tables"),
        (("query", "select 1", "--format", "xlsx"), "table, csv, json, parquet"),
        (("query", "select 1", "--format", "parquet"), "--output"),
        (("query", "select 1", "--study", "hole"), "Did you mean 'whole'?"),
        (("query", "select 1", "--study", "whole", "--all"), "not both"),
        (("query", "select 1", "--study", "whole", "-o", "/nowhere/a.csv"), "cannot write /nowhere/a.csv"),
    ],
)
def test_wrong_use_is_one_line_and_exit_2(run, words, said):
    code, _, err = run(*words)
    assert code == 2 and len(err.splitlines()) == 1 and said in err


def test_load_gives_the_view_as_a_frame_with_a_column_for_each_axis(results):
    frame = efficientllm.load("whole", results)
    columns, rows = ask("select * from metrics", results, ["whole"])
    assert list(frame.columns) == [*columns, "axes.mixer", "coordinates.batch", "coordinates.tokens"]
    assert len(frame) == len(rows)
    steps = frame[(frame.metric == "latency_median") & (frame.window_name == "train") & (frame["axes.mixer"] == "mqa")]
    assert len(steps) == 2 and steps.value.between(0.4, 0.6).all() and set(steps.unit) == {"s"}
    assert set(efficientllm.load(results=results, what="measurements").study) == {"whole", "part"}
    assert set(efficientllm.load(["part"], results, "series").name) >= {"step_s", "process_memory_bytes"}


def test_load_says_what_is_missing_or_wrong_in_one_line(results, monkeypatch):
    with pytest.raises(UnknownNameError, match="Did you mean 'metrics'"):
        efficientllm.load("whole", results, "metric")
    with pytest.raises(ResultsError, match="Did you mean 'whole'"):
        efficientllm.load("wole", results)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UserError, match=r"pip install 'efficientllm\[data\]'"):
        efficientllm.load("whole", results)


def test_parquet_without_its_library_is_one_line(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    code, _, err = run("query", "select 1", "--study", "whole", "-o", tmp_path / "a.parquet")
    assert code == 2 and "pip install 'efficientllm[data]'" in err and not (tmp_path / "a.parquet").exists()


def test_an_index_of_another_form_is_built_anew(results):
    assert len(schema.TABLES["metric_rows"]) == 5
    ask("select 1", results, ["part"])
    file = Study(results, "part").index_file
    with sqlite3.connect(file) as index:
        (version,) = index.execute("SELECT version FROM about").fetchone()
        index.execute("UPDATE about SET version = ?", (version.replace(version.split()[1], "0" * 8),))
        index.execute("DROP VIEW metrics")
    index.close()
    assert ask("select count(*) from metrics", results, ["part"])[1][0][0] > 0
