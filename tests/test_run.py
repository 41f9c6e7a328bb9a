"""The main job, small: run, resume, kill, interrupt, fail; each in real processes on a real corpus."""

import contextlib
import json
import lzma
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from efficientllm.records.codec import decode
from efficientllm.store.folder import Study

RECIPE = """
name: mini
title: Two mixers, very small
repeats: {repeats}
protocol: smoke
baseline: {{mixer: mha}}
stages:
  - name: pretrain
    workload: pretrain
    shape: {{num_layers: 1, width: 64, num_heads: 2, num_kv_heads: 1, head_dim: 32, mlp_width: 96}}
    corpus: {corpus}
    vocab_tokens: 320
    sequence_tokens: 32
    micro_batch: 2
    tokens: {tokens}
    learning_rate: {rate}
    heldout_tokens: 256
    axes: {{mixer: {mixers}}}
  - name: inference
    workload: inference
    from: pretrain
    prefill: [{{batch: 1, tokens: 32}}]
    decode: [{{batch: 2, tokens: 48}}]
"""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    for i in range(12):
        lines = (f"line {j} of text {i}: the {j * i % 7} quick foxes jump over {j % 5} lazy dogs\n" for j in range(120))
        (folder / f"{i:02}.txt").write_text("".join(lines))
    return folder


def write_recipe(folder, corpus, *, mixers="[mha, mqa]", repeats=1, tokens=1280, rate="1e-3"):
    path = folder / "mini.yaml"
    path.write_text(RECIPE.format(corpus=corpus, mixers=mixers, repeats=repeats, tokens=tokens, rate=rate))
    return path


def command(*words):
    return [sys.executable, "-m", "efficientllm.cli.main", *map(str, words)]


def run(*words, cwd, **environment):
    return subprocess.run(
        command(*words), cwd=cwd, capture_output=True, text=True, timeout=240, env={**os.environ, **environment}
    )


def stored(folder, study="mini"):
    return Study(folder / "results", study).read_all()[0]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, corpus):
    """A folder in which the mini recipe has run once."""
    folder = tmp_path_factory.mktemp("finished")
    done = run("run", write_recipe(folder, corpus), cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done


def test_a_run_measures_every_trial_once_and_ends_with_table_and_page(finished):
    folder, done = finished
    measurements = stored(folder)
    assert len(measurements) == 4
    assert {m.outcome for m in measurements} == {"ok"}
    page = folder / "results" / "mini" / "report.html"
    assert "mha" in done.stdout
    assert "report.html" in done.stdout
    assert "<html" in page.read_text()


def test_every_record_holds_its_evidence(finished):
    for m in stored(finished[0]):
        names = {window.name for window in m.windows}
        assert names >= ({"train", "curve"} if m.trial.stage == "pretrain" else {"prefill", "decode"}) | {"quality"}
        assert m.model.parameters_total > 0
        assert len(m.data.corpus_sha256) == 64
        assert m.environment.python
        assert "mixer" in m.cards
        assert m.ceilings.matmul_peak_flop_per_s["float32"] > 0
        assert 0 < m.find("quality").figures["heldout_bits_per_byte"] < 12
        for window in m.windows:
            for series in window.series:
                assert list(series.at_s) == sorted(series.at_s)
                assert len(series.at_s) == len(series.values)


def test_energy_is_measured_or_absent_with_its_reason_and_never_zero(finished):
    for m in stored(finished[0]):
        for window in m.windows:
            if window.name in ("curve", "quality"):
                continue
            energy = window.figures.get("energy_j")
            assert energy is None or energy > 0
            assert energy is not None or window.absent.get("energy_j") or m.absent.get("energy_j")


def test_inference_takes_the_trained_checkpoint(finished):
    by_stage = {}
    for m in stored(finished[0]):
        by_stage.setdefault(m.trial.axes["mixer"], {})[m.trial.stage] = m
    for stages in by_stage.values():
        trained, used = (stages[s].find("quality").figures["heldout_nats_per_token"] for s in ("pretrain", "inference"))
        assert used == pytest.approx(trained, rel=1e-4)


def test_a_second_call_measures_nothing_again(finished):
    folder, _ = finished
    before = {p: p.stat().st_mtime_ns for p in (folder / "results" / "mini" / "measurements").glob("*.json")}
    done = run("run", "mini.yaml", cwd=folder)
    assert done.returncode == 0
    assert done.stdout.count("stored before") == 4
    assert before == {p: p.stat().st_mtime_ns for p in (folder / "results" / "mini" / "measurements").glob("*.json")}


def test_a_lost_checkpoint_is_made_again_without_a_second_record(finished):
    folder, _ = finished
    study = folder / "results" / "mini"
    lost = next(m for m in stored(folder) if m.trial.stage == "inference")
    (study / "measurements" / f"{lost.id}.json").unlink()
    for artifact in (study / "artifacts").iterdir():
        for file in artifact.iterdir():
            file.unlink()
        artifact.rmdir()
    done = run("run", "mini.yaml", cwd=folder)
    assert "again: its checkpoint is gone" in done.stdout, done.stdout + done.stderr
    assert sorted(m.trial.id for m in stored(folder)) == sorted({m.trial.id for m in stored(folder)})
    assert len(stored(folder)) == 4


def test_the_plan_says_what_is_stored(finished):
    folder, _ = finished
    done = run("run", "mini.yaml", "repeats=2", "--dry-run", "--json", cwd=folder)
    rows = json.loads(done.stdout)
    assert [row["stored"] for row in rows] == [True] * 4 + [False] * 4


def test_show_report_query_and_list_answer_from_what_is_stored(finished):
    folder, _ = finished
    assert "mini" in run("show", cwd=folder).stdout
    assert "mqa" in run("show", "mini", cwd=folder).stdout
    assert "| mha" in run("report", "mini", "--format", "markdown", cwd=folder).stdout
    asked = run("query", "select count(*) as n from measurements", "--study", "mini", "--json", cwd=folder)
    assert json.loads(asked.stdout) == [{"n": 4}], asked.stderr
    metrics = run(
        "query",
        "select * from metrics where metric = 'bits_per_byte' and value is not null",
        "--study",
        "mini",
        "--json",
        cwd=folder,
    )
    assert len(json.loads(metrics.stdout)) >= 4, metrics.stderr


def test_a_truncated_file_is_named_and_the_rest_is_shown(finished, tmp_path):
    folder, _ = finished
    import shutil

    shutil.copytree(folder / "results", tmp_path / "results")
    victim = next((tmp_path / "results" / "mini" / "measurements").glob("*.json"))
    victim.write_bytes(victim.read_bytes()[:1000])
    done = run("show", "mini", cwd=tmp_path)
    assert done.returncode == 0
    assert victim.name in done.stdout.replace("\n", "")
    assert "mha" in done.stdout


def test_a_bundle_goes_elsewhere_and_back_counting_nothing_twice(finished, tmp_path):
    folder, _ = finished
    assert run("bundle", "mini", "-o", tmp_path / "mini.tar.xz", cwd=folder).returncode == 0
    first = run("merge", tmp_path / "mini.tar.xz", cwd=tmp_path)
    assert "4 added, 0 there already" in first.stdout, first.stdout + first.stderr
    second = run("merge", tmp_path / "mini.tar.xz", cwd=tmp_path)
    assert "0 added, 4 there already" in second.stdout
    ours, theirs = (sorted(stored(place), key=lambda m: m.id) for place in (folder, tmp_path))
    assert ours == theirs


def test_what_a_run_leaves_validates_and_so_does_its_anonymous_bundle(finished, tmp_path):
    folder, _ = finished
    hidden = tmp_path / "mini.tar.xz"
    assert run("bundle", "mini", "--anonymous", "-o", hidden, cwd=folder).returncode == 0
    done = run("validate", "results", hidden, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "completeness" in done.stdout and str(folder) not in lzma.decompress(hidden.read_bytes()).decode()


def test_fresh_puts_earlier_results_aside(finished, tmp_path, corpus):
    folder, _ = finished
    import shutil

    shutil.copytree(folder / "results", tmp_path / "results")
    write_recipe(tmp_path, corpus)
    done = run("run", "mini.yaml", "mixer=[mqa]", "baseline={}", "--fresh", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(stored(tmp_path)) == 2
    assert len(list((tmp_path / "results" / ".archive").glob("mini-*/measurements/*.json"))) == 4


@pytest.mark.prove
def test_a_killed_run_goes_on_and_has_each_trial_exactly_once(tmp_path, corpus):
    """SIGKILL at many instants; whatever was stored is whole, and the last call completes the study."""
    write_recipe(tmp_path, corpus, repeats=2)
    for delay_s in (3.0, 7.0, 11.0, 16.0):
        child = subprocess.Popen(command("run", "mini.yaml"), cwd=tmp_path, stdout=subprocess.DEVNULL)
        time.sleep(delay_s)
        child.kill()
        child.wait()
        for file in (tmp_path / "results" / "mini" / "measurements").glob("*.json"):
            decode(file.read_bytes())
    done = run("run", "mini.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    ids = [m.trial.id for m in stored(tmp_path)]
    assert len(ids) == len(set(ids)) == 8


def test_ctrl_c_keeps_the_rest_and_stores_the_trial_as_interrupted(tmp_path):
    write_recipe(tmp_path, "stdlib", tokens=8_000_000)
    child = subprocess.Popen(
        command("run", "mini.yaml", "--json"), cwd=tmp_path, stderr=subprocess.PIPE, text=True, preexec_fn=hear_ctrl_c
    )
    try:
        wait_for_worker(child)
        child.send_signal(signal.SIGINT)
        _, said = child.communicate(timeout=60)
    finally:
        child.kill()
    assert child.returncode == 130
    assert "interrupted" in said
    (measurement,) = stored(tmp_path)
    assert measurement.outcome == "interrupted"
    assert measurement.find("curve").find("loss").values


def hear_ctrl_c():
    """Undo that a shell lets its background jobs ignore Ctrl-C, which these tests may be."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def wait_for_worker(child):
    """Wait until a worker has spoken of its loss: it trains."""
    for _ in range(900):
        for process in psutil.Process(child.pid).children():
            with contextlib.suppress(psutil.Error):
                folder = ["", *process.cmdline()][-1]  # one that has just ended has none
                events = Path(folder) / "events.jsonl"
                if "bench.worker" in " ".join(process.cmdline()) and events.exists() and "loss " in events.read_text():
                    return
        time.sleep(0.1)
    raise AssertionError("no worker began to train")


def test_a_loss_that_explodes_ends_as_diverged_with_its_step_and_keeps_its_series(tmp_path, corpus):
    write_recipe(tmp_path, corpus, mixers="[mha]", tokens=12800, rate="1000.0")
    done = run("run", "mini.yaml", "clip_norm=0", cwd=tmp_path)
    measurements = stored(tmp_path)
    trained = next(m for m in measurements if m.trial.stage == "pretrain")
    assert trained.outcome == "diverged", done.stdout + done.stderr
    assert "at step" in trained.reason
    assert trained.find("curve").find("loss").values
    follower = next(m for m in measurements if m.trial.stage == "inference")
    assert follower.outcome == "diverged"
    assert "no checkpoint" in follower.reason


def test_a_worker_that_the_kernel_kills_ends_as_crashed_and_the_study_goes_on(tmp_path, corpus):
    mixer = tmp_path / "killer.py"
    mixer.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\nENTRY = None\n")
    write_recipe(tmp_path, corpus, mixers="[mha, ./killer.py]")
    done = run("run", "mini.yaml", cwd=tmp_path)
    assert done.returncode == 1
    outcomes = {(m.trial.axes["mixer"], m.trial.stage): (m.outcome, m.reason) for m in stored(tmp_path)}
    assert outcomes["mha", "inference"][0] == "ok", done.stdout + done.stderr
    assert outcomes["killer", "pretrain"][0] == "crashed"
    assert "SIGKILL" in outcomes["killer", "pretrain"][1]


OUTSIDE = '''"""Grouped-query attention of a user's own, with one group."""
from dataclasses import replace

from efficientllm import registry

GQA = registry.load("mixer", "gqa")


def build(shape, **options):
    return GQA.build(replace(shape, num_kv_heads=1), **options)


ENTRY = replace(GQA, build=build)
'''


def test_a_users_own_mixer_is_checked_runs_and_its_hash_is_in_the_record(tmp_path, corpus):
    (tmp_path / "mine.py").write_text(OUTSIDE)
    checked = run("check", "mine.py", cwd=tmp_path)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    write_recipe(tmp_path, corpus, mixers="[mha, ./mine.py]")
    done = run("run", "mini.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    mine = [m for m in stored(tmp_path) if m.trial.axes["mixer"] == "mine"]
    assert len(mine) == 2
    assert all(len(m.trial.settings.mixer.sha256) == 64 for m in mine)


def test_a_broken_mixer_fails_the_check(tmp_path):
    broken = OUTSIDE.replace("return GQA.build(replace(shape, num_kv_heads=1), **options)", "return Peeks(shape)")
    broken = broken.replace("def build", PEEKS + "\n\ndef build")
    (tmp_path / "broken.py").write_text(broken)
    checked = run("check", "broken.py", cwd=tmp_path)
    assert checked.returncode == 1, checked.stdout + checked.stderr
    assert "✗" in checked.stdout


PEEKS = """
def Peeks(shape):
    mixer = GQA.build(shape)
    forward = mixer.forward
    mixer.forward = lambda x_BTD, *a, **k: forward(x_BTD, *a, **k) + x_BTD.mean(1, keepdim=True)  # sees the future
    return mixer
"""


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["run", "quickstrat"], "unknown recipe 'quickstrat'. Did you mean 'quickstart'?"),
        (["run", "nowhere.yaml"], "cannot read nowhere.yaml"),
        (["run", "quickstart", "corpus=./nowhere.txt"], "nowhere.txt"),
        (["run", "quickstart", "corpus=./empty"], "empty"),
        (["run", "quickstart", "corpus=./picture.txt"], "picture.txt"),
        (
            ["run", "quickstart", "precision.questions=[./no.jsonl]", "--dry-run"],
            "quickstart.yaml: stages.precision.questions[0]: q",
        ),
        (
            ["run", "quickstart", "precision.questions=[./no.jsonl]", "--fresh"],
            "quickstart.yaml: stages.precision.questions[0]: q",
        ),
        (["run", "quickstart", "shape={num_heads: 3}"], "3"),
        (["run", "quickstart", "shape={num_hats: 3}"], "num_heads"),
        (["run", "quickstart", "size=tinny"], "Did you mean 'tiny'?"),
        (["run", "quickstart", "mixer=[mla2]", "baseline={}"], "Did you mean 'mla'?"),
        (["run", "quickstart", "--results", "file"], "file"),
        (["show", "nosuch"], "no study 'nosuch'"),
        (["list", "mixxers"], "unknown kind 'mixxers'"),
        (["where", "mla2"], "Did you mean 'mla'?"),
        (["check", "nowhere.py"], "nowhere.py"),
        (["merge", "nowhere.tar.xz"], "nowhere.tar.xz"),
        (["merge", "picture.txt"], "picture.txt"),
        (["report", "nosuch", "--format", "docx"], "'docx' is none of html, markdown, svg, pdf, png"),
    ],
)
def test_bad_input_gets_one_line_and_exit_2(tmp_path, words, says):
    (tmp_path / "empty").mkdir()
    (tmp_path / "picture.txt").write_bytes(b"\x89PNG\r\n\x1a\n\x00\x00\xff\xfe" * 64)
    (tmp_path / "file").write_text("a file where a folder is wanted")
    done = run(*words, cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    last = done.stderr.strip().splitlines()
    assert len(last) == 1, done.stderr
    assert says in last[0], done.stderr
    assert last[0].startswith("error: ")


def test_a_results_folder_that_cannot_be_written_is_said_before_anything_runs(tmp_path):
    results = Path("/proc/nowhere")
    done = run("run", "quickstart", "--results", results, cwd=tmp_path)
    assert done.returncode == 2
    assert str(results) in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_query_refuses_to_write_and_answers_bad_sql_in_one_line(finished):
    folder, _ = finished
    for sql in ("delete from measurements", "select nothing from nowhere"):
        done = run("query", sql, "--study", "mini", cwd=folder)
        assert done.returncode == 2, done.stdout
        assert len(done.stderr.strip().splitlines()) == 1
