"""One file a measurement: whole or not there, never overwritten, and a study resumes from what is stored."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import msgspec
import pytest

from efficientllm.errors import ResultsError
from efficientllm.records.codec import decode, encode
from efficientllm.records.examples import example_measurement, example_trial
from efficientllm.store import atomic
from efficientllm.store.attempts import counted
from efficientllm.store.folder import Study, studies


def measured(attempt=0, *, repeat=0, outcome="ok", **fields):
    base = example_measurement(trial=example_trial(repeat=repeat), outcome=outcome)
    name = f"{base.trial.id}-{base.environment.id}-{attempt}"
    return msgspec.structs.replace(base, id=name, **fields)


def ids(measurement):
    return measurement.trial.id, measurement.environment.id


@pytest.fixture
def study(tmp_path):
    return Study(tmp_path / "results", "attention")


def left_overs(study):
    return [path.name for path in study.measurements_folder.iterdir() if path.suffix != ".json"]


def test_what_is_written_is_read_back(study):
    first, second = measured(repeat=0), measured(repeat=1)
    path = study.write(first)
    study.write(second)
    found, problems = study.read_all()
    assert sorted(found, key=lambda m: m.trial.repeat) == [first, second]
    assert problems == []
    assert path == study.measurements_folder / f"{first.id}.json"
    assert path.read_bytes() == encode(first)
    assert left_overs(study) == []


def test_a_study_that_was_never_run_is_empty(study):
    assert study.read_all() == ([], [])
    assert study.done("a", "b") is None and study.next_attempt("a", "b") == 0
    assert not study.path.exists()


def test_what_is_stored_is_never_overwritten(study):
    path = study.write(measured(reason="the first"))
    before = path.read_bytes()
    with pytest.raises(ResultsError, match="never overwritten"):
        study.write(measured(reason="the second"))
    assert path.read_bytes() == before
    assert study.write(measured(reason="the first")) == path
    assert left_overs(study) == []


def test_a_record_that_could_not_be_read_back_is_refused(study):
    with pytest.raises(ResultsError, match=r"could not be read back.*figures"):
        study.write(measured(figures={"loss": math.nan}))
    assert study.files() == []


def test_a_truncated_or_foreign_file_is_named_and_the_rest_still_given(study):
    good = [measured(repeat=repeat) for repeat in range(3)]
    paths = [study.write(measurement) for measurement in good]
    paths[0].write_bytes(paths[0].read_bytes()[:-20])
    (study.measurements_folder / "notes.json").write_text('{"by": "hand"}')
    (study.measurements_folder / "binary.json").write_bytes(b"\xff\xfe\x00")
    (study.measurements_folder / "renamed.json").write_bytes(paths[1].read_bytes())
    (study.measurements_folder / "a folder.json").mkdir()
    newer = msgspec.json.decode(paths[1].read_bytes()) | {"schema": 99}
    (study.measurements_folder / "newer.json").write_bytes(msgspec.json.encode(newer))
    (study.measurements_folder / ".tmp-abc.json").write_text("{")
    found, problems = study.read_all()
    assert sorted(m.trial.repeat for m in found) == [1, 2]
    assert sorted(problem.file for problem in problems) == sorted(
        [paths[0].name, "notes.json", "binary.json", "renamed.json", "a folder.json", "newer.json"]
    )
    told = {problem.file: str(problem) for problem in problems}
    assert "schema 99 is newer" in told["newer.json"]
    assert good[1].id in told["renamed.json"]


@pytest.mark.parametrize("outcome", ["ok", "oom", "unsupported", "invalid", "diverged"])
def test_a_final_outcome_is_done(study, outcome):
    measurement = measured(outcome=outcome)
    study.write(measurement)
    assert study.done(*ids(measurement)) == measurement
    assert study.done(measurement.trial.id, "elsewhere") is None
    assert study.done(example_trial(repeat=7).id, measurement.environment.id) is None


def test_an_interrupted_trial_is_run_again_however_often(study):
    for attempt in range(4):
        study.write(measured(attempt, outcome="interrupted"))
        assert study.done(*ids(measured())) is None
    study.write(measured(4))
    assert study.done(*ids(measured())) == measured(4)


def test_a_crashed_trial_is_run_once_more(study):
    study.write(measured(0, outcome="crashed"))
    study.write(measured(1, outcome="interrupted"))
    assert study.done(*ids(measured())) is None
    study.write(measured(2, outcome="crashed"))
    assert study.done(*ids(measured())) == measured(2, outcome="crashed")


def test_a_trial_that_came_further_before_it_crashed_again_is_run_again(study):
    for attempt, step in enumerate((0.0, 100.0, 200.0)):
        study.write(measured(attempt, outcome="crashed", figures={"resumed_step": step} if step else {}))
        assert study.done(*ids(measured())) is None
    study.write(measured(3, outcome="crashed", figures={"resumed_step": 200.0}))
    assert study.done(*ids(measured())).id == measured(3).id


def test_of_two_final_attempts_the_first_stands_also_by_the_tenth(study):
    for attempt in (10, 9):
        study.write(measured(attempt, reason=str(attempt)))
    assert study.done(*ids(measured())).reason == "9"


def test_attempts_are_numbered_on_and_a_damaged_file_keeps_its_number(study):
    assert study.next_attempt(*ids(measured())) == 0
    study.write(measured(0, outcome="interrupted"))
    study.write(measured(9, outcome="interrupted"))
    study.write(measured(10, outcome="ok")).write_bytes(b"{")
    assert study.next_attempt(*ids(measured())) == 11
    assert study.done(*ids(measured())) is None
    assert study.next_attempt("other", measured().environment.id) == 0


def test_of_several_attempts_one_counts():
    given = [
        measured(0, outcome="crashed"),
        measured(0, repeat=1, outcome="interrupted"),
        measured(1, outcome="ok"),
        measured(2, outcome="ok"),
        measured(1, repeat=1, outcome="interrupted"),
    ]
    count, others = counted(given)
    assert [m.id for m in count] == [measured(1).id, measured(1, repeat=1).id]
    assert {m.id for m in others} == {measured(0).id, measured(2).id, measured(0, repeat=1).id}


@pytest.mark.parametrize("name", ["", " ", ".", "..", "a/b", "/etc", "a\\b", "C:x", ".hidden", "-rf", "a\n", "a " * 99])
def test_a_study_name_that_is_no_plain_name_is_refused(tmp_path, name):
    with pytest.raises(ResultsError, match="study name"):
        Study(tmp_path, name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["attention", "attention tiny", "étude-2", "a.b"])
def test_plain_names_are_studies(tmp_path, name):
    Study(tmp_path, name).write(measured())
    assert studies(tmp_path) == [name]


@pytest.mark.parametrize("trial_id", ["../../etc", "a/b", "", ".x"])
def test_an_id_cannot_lead_out_of_the_folder(study, trial_id):
    with pytest.raises(ResultsError, match="cannot be a file's name"):
        study.artifact_folder(trial_id)
    with pytest.raises(ResultsError, match="cannot be a file's name"):
        study.write(msgspec.structs.replace(measured(), id=trial_id))


def test_artifacts_lie_beside_the_measurements(study):
    assert study.artifact_folder("0f3a") == study.path / "artifacts" / "0f3a"


def test_studies_are_listed_without_the_archive_and_without_strangers(tmp_path):
    for name in ("b", "a"):
        Study(tmp_path, name).write(measured())
    (tmp_path / "notes").mkdir()
    (tmp_path / "file").write_text("")
    assert Study(tmp_path, "a").archive() is not None
    assert studies(tmp_path) == ["b"]
    assert studies(tmp_path / "nowhere") == []
    with pytest.raises(ResultsError, match="cannot be read"):
        studies(tmp_path / "file")


def test_archiving_moves_the_study_and_deletes_nothing(study):
    study.write(measured())
    artifact = study.artifact_folder(measured().trial.id)
    artifact.mkdir(parents=True)
    (artifact / "model").write_text("weights")
    moved = study.archive()
    assert moved.parent == study.results / ".archive" and moved.name.startswith("attention-")
    assert (moved / "artifacts" / artifact.name / "model").read_text() == "weights"
    assert study.read_all() == ([], [])
    study.write(measured())
    again = study.archive()
    assert again != moved and decode(next(again.glob("measurements/*.json")).read_bytes()) == measured()
    assert study.archive() is None


def test_recipes_are_kept_by_their_hash_once(study):
    first = study.keep_recipe(b"title: one\n")
    assert study.keep_recipe(b"title: one\n") == first
    study.keep_recipe(b"title: two\n")
    assert len(study.recipes()) == 2 and first.read_bytes() == b"title: one\n"
    assert first.name.endswith(".yaml") and len(first.stem) == 8


def test_a_results_folder_that_cannot_be_written_is_refused_before_anything_is_measured(tmp_path):
    (tmp_path / "file").write_text("")
    for results in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/results")):
        with pytest.raises(ResultsError, match="cannot be written") as caught:
            Study(results, "attention").check_writable()
        assert "\n" not in str(caught.value) and "--results" in str(caught.value)


def test_what_killed_writers_left_is_swept_and_what_living_ones_hold_is_not(study):
    study.check_writable()
    old, young = study.measurements_folder / ".tmp-old", study.measurements_folder / ".tmp-young"
    old.write_text("{")
    young.write_text("{")
    before = young.stat().st_mtime - 7200
    os.utime(old, (before, before))
    study.check_writable()
    assert left_overs(study) == [".tmp-young"]


def test_without_hard_links_a_file_is_still_never_overwritten(tmp_path, monkeypatch):
    def no_links(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    assert atomic.write_new(tmp_path / "a.json", b"one") is True
    assert atomic.write_new(tmp_path / "a.json", b"one") is False
    with pytest.raises(ResultsError, match="never overwritten"):
        atomic.write_new(tmp_path / "a.json", b"two")
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def run(script, *arguments):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_a_disk_that_fills_up_gives_one_line_and_no_partial_file(tmp_path):
    script = """
        import resource, signal, sys
        from pathlib import Path
        from efficientllm.errors import ResultsError
        from efficientllm.records.examples import example_measurement
        from efficientllm.store.folder import Study
        study = Study(Path(sys.argv[1]), "full")
        study.check_writable()
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        try:
            study.write(example_measurement(step_s=(0.1234,) * 5000))
        except ResultsError as error:
            print(error)
    """
    done = run(script, tmp_path)
    (line,) = done.stdout.splitlines()
    assert str(tmp_path / "full" / "measurements") in line and ".json cannot be written" in line
    assert list((tmp_path / "full" / "measurements").iterdir()) == []


def test_a_killed_write_leaves_whole_files_only(tmp_path):
    script = """
        import os, random, signal, sys, time
        from pathlib import Path
        import msgspec
        from efficientllm.records.examples import example_measurement
        from efficientllm.store.folder import Study
        study = Study(Path(sys.argv[1]), "killed")
        study.check_writable()
        base = example_measurement(step_s=(0.1,) * 4000)
        rng = random.Random(0)
        study.write(base)
        whole = max(path.stat().st_size for path in study.files())
        for life in range(3000):
            torn = [path for path in study.measurements_folder.glob(".tmp-*") if path.stat().st_size < whole - 100]
            if life >= 120 and torn:
                break  # until then no kill fell into the middle of a write
            child = os.fork()
            if child == 0:
                number = 0
                while True:
                    number += 1
                    study.write(msgspec.structs.replace(base, id=f"life{life}-{number}"))
            time.sleep(rng.uniform(0.0005, 0.02))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    """
    done = run(script, tmp_path)
    assert done.returncode == 0, done.stderr
    study = Study(tmp_path, "killed")
    found, problems = study.read_all()
    assert problems == []
    assert len(found) > 50
    whole = max(path.stat().st_size for path in study.files())
    partial = [path for path in study.measurements_folder.glob(".tmp-*") if path.stat().st_size < whole - 100]
    assert partial, "no kill fell into a write, so nothing was tried"


def test_the_store_needs_no_torch_and_no_analysis():
    script = """
        import sys
        import efficientllm.store.bundle, efficientllm.store.index
        heavy = {"torch", "numpy", "scipy"} & set(sys.modules)
        above = [name for name in sys.modules if name.startswith("efficientllm.analysis")]
        sys.exit(f"imported {heavy} {above}" if heavy or above else 0)
    """
    done = run(script)
    assert done.returncode == 0, done.stderr
