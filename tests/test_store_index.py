"""SQL over a study: the index answers as the files do, follows them, and survives being damaged."""

from __future__ import annotations

import sqlite3
import statistics

import msgspec
import pytest

from efficientllm.errors import UserError
from efficientllm.records.examples import example_measurement, example_trial
from efficientllm.records.series import Series
from efficientllm.store.folder import Study
from efficientllm.store.index import Index


def measured(technique="mha", repeat=0, outcome="ok", step_s=(0.5, 0.6, 0.7)):
    used = Series(name="", unit="bytes", at_s=(0.0, 1.0), values=(10.0, 30.0), source="psutil.uss")
    trial = example_trial(axes={"mixer": technique}, repeat=repeat, seed=hash_of(technique, repeat))
    return example_measurement(
        trial=trial, outcome=outcome, step_s=step_s, figures={"heldout_bits_per_byte": 2.5 + repeat}, used_bytes=used
    )


def hash_of(technique, repeat):
    return sum(technique.encode()) * 100 + repeat  # labels are no part of a trial's id, seeds are


def median_step_s(measurement, window):
    return {"median_step_s": statistics.median(window.find("step_s").values)}


@pytest.fixture
def study(tmp_path):
    study = Study(tmp_path / "results", "attention")
    for technique in ("mha", "mqa"):
        for repeat in range(3):
            study.write(measured(technique, repeat))
    return study


def count(index, table="measurements"):
    return index.query(f"SELECT count(*) FROM {table}")[1][0][0]


def test_a_query_answers_from_the_files(study):
    columns, rows = Index(study).query(
        "SELECT technique, count(*) AS n, avg(value) FROM figures "
        "WHERE name = 'heldout_bits_per_byte' GROUP BY technique ORDER BY technique"
    )
    assert columns == ["technique", "n", "avg(value)"]
    assert rows == [("mha", 3, 3.5), ("mqa", 3, 3.5)]


def test_every_table_joins_with_its_window_and_measurement(study):
    index = Index(study, median_step_s, "1")
    _, rows = index.query(
        "SELECT m.technique, m.repeat, w.label, x.value, s.n, s.mean, s.min, s.max, s.unit, s.source "
        "FROM metrics x JOIN windows w USING (measurement, window) JOIN measurements m USING (measurement) "
        "JOIN series s USING (measurement, window) "
        "WHERE x.metric = 'median_step_s' AND s.name = 'used_bytes' ORDER BY 1, 2 LIMIT 1"
    )
    assert rows == [("mha", 0, "train", 0.6, 2, 20.0, 10.0, 30.0, "bytes", "psutil.uss")]


def test_axes_and_settings_are_asked_as_json(study):
    _, rows = Index(study).query(
        "SELECT DISTINCT json_extract(axes, '$.mixer'), json_extract(settings, '$.size') FROM measurements ORDER BY 1"
    )
    assert rows == [("mha", "tiny"), ("mqa", "tiny")]


def test_the_identity_of_a_measurement_is_in_its_columns(study):
    wanted = measured("mqa", 2)
    columns, rows = Index(study).query(f"SELECT * FROM measurements WHERE id = '{wanted.id}'")
    row = dict(zip(columns, rows[0], strict=True))
    assert row["trial"] == wanted.trial.id and row["environment"] == wanted.environment.id
    assert (row["study"], row["workload"], row["outcome"], row["repeat"]) == ("attention", "pretrain", "ok", 2)
    assert (row["protocol"], row["device"], row["device_name"]) == ("standard", "cpu", "example")


def test_the_index_follows_added_removed_and_changed_files(study):
    index = Index(study)
    first = index.refresh()
    assert (first.added, first.rebuilt, first.in_memory) == (6, True, False)
    again = index.refresh()
    assert (again.added, again.removed, again.unchanged, again.rebuilt) == (0, 0, 6, False)
    path = study.write(measured("mla"))
    assert count(index) == 7
    path.unlink()
    assert index.refresh().removed == 1
    assert [count(index, table) for table in ("measurements", "windows", "figures", "series")] == [6, 6, 6, 12]
    study.files()[0].write_bytes(b"{")
    changed = index.refresh()
    assert (changed.added, changed.removed, changed.unchanged, changed.rebuilt) == (1, 0, 5, False)
    assert count(index) == 5
    assert index.query("SELECT problem FROM files WHERE problem IS NOT NULL")[1][0][0].startswith("no measurement")


def test_a_number_is_never_given_twice_though_a_problem_held_the_last_one(study):
    index = Index(study)
    bad = study.measurements_folder / "zzz.json"
    bad.write_text("{")
    assert count(index) == 6
    study.write(measured("mla"))
    assert count(index) == 7
    bad.unlink()
    assert count(index) == 7 and count(index, "windows") == 7


def test_the_index_may_be_deleted_at_any_time(study):
    index = Index(study)
    assert count(index) == 6
    study.index_file.unlink()
    assert count(index) == 6 and study.index_file.exists()


@pytest.mark.parametrize("damage", ["text", "head", "middle", "truncated", "empty", "foreign"])
def test_a_damaged_index_is_built_anew(study, damage):
    index = Index(study, median_step_s, "1")
    for repeat in range(3, 40):
        study.write(measured("mha", repeat))
    answer = index.query("SELECT * FROM metrics")
    data = bytearray(study.index_file.read_bytes())
    if damage == "text":
        data = bytearray(b"this was never a database" * 100)
    elif damage == "head":
        data[0:100] = bytes(100)
    elif damage == "middle":
        for page in range(4096, len(data), 4096):
            data[page : page + 300] = b"\xee" * 300
    elif damage == "truncated":
        del data[len(data) // 2 :]
    elif damage == "empty":
        data.clear()
    else:
        study.index_file.unlink()
        with sqlite3.connect(study.index_file) as stranger:
            stranger.execute("CREATE TABLE files (mine TEXT)")
        stranger.close()
        data = bytearray(study.index_file.read_bytes())
    study.index_file.write_bytes(data)
    assert index.query("SELECT * FROM metrics") == answer
    assert count(index) == 43


def test_damage_that_only_the_query_meets_is_mended_too(study):
    for repeat in range(3, 200):
        study.write(measured("mha", repeat))
    index = Index(study)
    answer = index.query("SELECT sum(value) FROM figures")
    with sqlite3.connect(study.index_file) as connection:
        (root,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'figure_rows'").fetchone()
        (page,) = connection.execute("PRAGMA page_size").fetchone()
    connection.close()
    data = bytearray(study.index_file.read_bytes())
    data[(root - 1) * page : root * page] = b"\xee" * page
    study.index_file.write_bytes(data)
    assert index.query("SELECT sum(value) FROM figures") == answer


def test_an_older_index_and_other_metrics_are_built_anew(study):
    assert count(Index(study), "metrics") == 0
    assert count(Index(study, median_step_s, "1"), "metrics") == 6
    assert not Index(study, median_step_s, "1").refresh().rebuilt
    twice = Index(study, lambda m, w: {"a": 1.0, "b": 2.0}, "2")
    assert twice.refresh().rebuilt and count(twice, "metrics") == 12
    with sqlite3.connect(study.index_file) as connection:
        connection.execute("UPDATE about SET version = 'older'")
    connection.close()
    assert twice.refresh().rebuilt


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM measurements",
        "DROP TABLE measurements",
        "UPDATE measurements SET outcome = 'ok'",
        "INSERT INTO files SELECT * FROM files",
        "CREATE TABLE mine (a)",
        "ATTACH DATABASE '{other}' AS other",
        "VACUUM INTO '{other}'",
        "PRAGMA query_only = OFF",
        "PRAGMA journal_mode = WAL",
        "SELECT 1; SELECT 2",
        "SELECT load_extension('x')",
        "SELECT no_such FROM measurements",
        "SELECT * FROM nowhere",
        "SELEC",
        "SELECT ?",
        "",
        "-- only a comment",
        "SELECT \x00",
    ],
)
def test_what_writes_or_makes_no_sense_is_one_line_with_the_tables_names(study, tmp_path, sql):
    index = Index(study)
    index.refresh()
    before = study.index_file.read_bytes()
    with pytest.raises(UserError) as caught:
        index.query(sql.format(other=tmp_path / "other.db"))
    message = str(caught.value)
    assert message.startswith("query: ") and "\n" not in message
    if sql.startswith("SELECT no_such"):
        assert "Columns of measurements: measurement, study, id, trial" in message
    else:
        assert message.endswith("Tables: figures, files, measurements, metric_info, metrics, series, windows.")
    assert study.index_file.read_bytes() == before
    assert not (tmp_path / "other.db").exists()


def test_where_no_index_can_be_written_it_is_built_in_memory(study):
    study.index_file.mkdir()
    index = Index(study)
    assert count(index) == 6
    assert index.refresh().in_memory


def test_another_process_that_holds_the_index_does_not_stop_a_query(study, monkeypatch):
    index = Index(study)
    index.refresh()
    holder = sqlite3.connect(study.index_file, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    monkeypatch.setattr("efficientllm.store.index.WAIT_S", 0.05)
    assert count(index) == 6
    assert index.refresh().in_memory
    holder.close()
    assert not index.refresh().in_memory


def test_a_study_that_was_never_run_answers_nothing_and_makes_no_folder(tmp_path):
    study = Study(tmp_path / "results", "none")
    assert count(Index(study)) == 0
    assert not (tmp_path / "results").exists()


def test_a_number_beyond_64_bits_is_a_problem_of_its_file_alone(study):
    huge = msgspec.to_builtins(measured("mla"))
    huge["windows"][0]["work"]["tokens"] = 1 << 70
    (study.measurements_folder / f"{huge['id']}.json").write_bytes(msgspec.json.encode(huge))
    index = Index(study)
    assert count(index) == 6 and count(index, "windows") == 6
    assert len(index.query("SELECT file FROM files WHERE problem IS NOT NULL")[1]) == 1


def test_a_fault_of_the_metrics_is_not_blamed_on_the_query(study):
    def faulty(measurement, window):
        raise ValueError("a fault of the metric")

    with pytest.raises(ValueError, match="a fault of the metric"):
        Index(study, faulty, "1").query("SELECT 1")
