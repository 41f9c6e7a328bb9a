"""Looks at held-out text while training goes on: on rows that judge nothing, outside of steps, without a trace."""

import io
import re

import pytest
from rich.console import Console

from efficientllm.bench.ceilings import matmul_peak
from efficientllm.bench.job import JobFile
from efficientllm.bench.worker import run_job
from efficientllm.cli._watch import RichWatcher
from efficientllm.data.prepare import judged_rows, prepare
from efficientllm.devices.choose import open_device
from efficientllm.meters.marks import Marks
from efficientllm.records import events
from efficientllm.records.choice import Choice
from efficientllm.records.measurement import Ceilings
from efficientllm.records.protocol import PROTOCOLS
from efficientllm.records.settings import PretrainSettings
from efficientllm.records.trial import make_trial
from efficientllm.training.evaluate import evaluation_rows
from efficientllm.training.progress import Pace

SMALL = {"num_layers": 2, "width": 32, "num_heads": 2, "num_kv_heads": 1, "head_dim": 16, "mlp_width": 48}


def settings_of(text, **more):
    fields = {"tokens": 64 * 20, "micro_batch": 2, "sequence_tokens": 32, "heldout_tokens": 512, "vocab_tokens": 320}
    fields |= {"mlp": Choice(name="moe"), "evaluate_tokens": 256, "learning_rate": 3e-3}
    return PretrainSettings(shape=SMALL, corpus=Choice(name=str(text / "corpus")), **{**fields, **more})


def run(settings, text, folder, peak=0.0):
    """Run a trial in this process; return its end, its series, figures, progress notes and cautions."""
    trial = make_trial(settings=settings, protocol=PROTOCOLS["smoke"], device="cpu", seed=0, repeat=0)
    device = open_device("cpu")
    marks = Marks(folder / "events.jsonl", device, trial.protocol)
    job = JobFile(trial=trial, cache=str(text / "cache"), threads=1, matmul_peak_flop_per_s=peak)
    end = run_job(job, marks, device)
    marks.close()
    assert end.outcome == "ok", end
    said, _ = events.decode_events((folder / "events.jsonl").read_bytes())
    names = {e.window: e.name for e in said if isinstance(e, events.Opened)}
    series, figures = {}, {}
    for event in said:
        if isinstance(event, events.Values):
            series.setdefault((names[event.window], event.name), []).extend(event.values)
        elif isinstance(event, events.Figure):
            figures[names.get(event.window), event.name] = event.value
    notes = [event.note for event in said if isinstance(event, events.Progress)]
    cautions = {c.code: c.text for event in said if isinstance(event, events.Facts) for c in event.cautions}
    return series, figures, notes, cautions


@pytest.fixture(scope="module")
def runs(text, tmp_path_factory):
    """The same trial without looks and with one every four steps."""
    return [
        run(settings_of(text, evaluate_every=every), text, tmp_path_factory.mktemp("run"), peak=1e11)
        for every in (0, 4)
    ]


def test_training_is_the_same_with_and_without_looks(runs):
    (plain, figures, _, _), (looked, others, _, _) = runs
    assert plain["curve", "loss"] == looked["curve", "loss"]
    assert plain["curve", "expert_load_max_ratio"] == looked["curve", "expert_load_max_ratio"]
    assert figures["quality", "heldout_bits_per_byte"] == others["quality", "heldout_bits_per_byte"]


def test_each_look_has_its_step_and_the_loss_falls(runs):
    series = runs[1][0]
    assert series["curve", "heldout_step"] == [4, 8, 12, 16, 20]
    losses = series["curve", "heldout_loss"]
    assert len(losses) == 5 and losses[-1] < losses[0] - 0.2
    final = runs[1][1]["quality", "heldout_nats_per_token"]
    assert abs(losses[-1] - final) < 0.3  # the same model on other rows
    assert ("curve", "heldout_loss") not in runs[0][0]


def test_looks_are_outside_of_steps_and_their_time_is_told(runs):
    (plain, figures, _, none), (looked, others, _, cautions) = runs
    assert len(looked["train", "step_s"]) + 3 <= 20 and len(looked["curve", "loss"]) == 20
    assert others[None, "evaluation_s"] > 0 and others[None, "evaluation_tokens"] == 256
    assert (None, "evaluation_s") not in figures and "evaluated" not in none
    assert "% of the measured segment: its steps leave them out, its energy" in cautions["evaluated"]
    assert len(plain["train", "step_s"]) > 0


@pytest.mark.parametrize("judged_on", ["test", "valid"])
@pytest.mark.parametrize("tokens", [32, 100, 10_000])
def test_looks_never_see_a_row_that_judges_the_trained_model(text, tokens, judged_on):
    settings = settings_of(text, evaluate_tokens=tokens, evaluate_every=1, judged_on=judged_on)
    heldout = prepare(settings, text / "cache", settings.tokens).heldout
    rows = {row.tobytes() for row in evaluation_rows(heldout, settings)}
    assert len(rows) == min(max(1, tokens // 32), 512 // 32)
    judging = {row.tobytes() for row in judged_rows(heldout, settings_of(text))[0]}
    assert len(judging) == 512 // 32 and not rows & judging


def test_the_person_sees_loss_rate_mfu_and_time_left(runs):
    for _, _, notes, _ in runs:
        last = [note for note in notes if note.startswith("loss")][-1]
        assert re.fullmatch(r"loss \d\.\d\d · \S+( k)?/s · MFU \S+ %", last), last


def test_the_rate_is_that_of_the_last_two_seconds():
    pace = Pace(tokens_per_step=100, num_steps=1000)
    for step in range(1, 11):  # ten slow steps of a second
        pace.step(step, float(step))
    assert pace.steps_per_s == pytest.approx(1.0)
    for step in range(11, 51):  # then ten a second
        pace.step(step, 10.0 + (step - 10) / 10)
    assert pace.steps_per_s == pytest.approx(10.0)
    assert pace.note(2.0) == "loss 2.00 · 1.00 k/s · 95.0 s left"


def test_a_pause_is_no_training():
    pace = Pace(tokens_per_step=100, num_steps=1000)
    pace.step(1, 0.0)
    pace.step(2, 1.0)
    pace.pause(30.0)
    pace.step(3, 32.0)
    assert pace.steps_per_s == pytest.approx(1.0)


def test_a_step_longer_than_the_window_has_a_rate_and_mfu_only_with_a_ceiling():
    pace = Pace(tokens_per_step=100, num_steps=3, flops_per_step=5e10, peak_flop_per_s=1e10)
    pace.step(1, 0.0)
    assert pace.note(3.0) == "loss 3.00"
    pace.step(2, 10.0)
    assert pace.note(3.0) == "loss 3.00 · 10.0/s · MFU 50 % · 10.0 s left"
    pace.step(3, 20.0)
    assert pace.note(3.0) == "loss 3.00 · 10.0/s · MFU 50 %"
    without = Pace(tokens_per_step=100, num_steps=3, flops_per_step=5e10)
    without.step(1, 0.0)
    without.step(2, 10.0)
    assert "MFU" not in without.note(3.0)


def test_the_progress_line_fits_a_hundred_columns_and_keeps_its_note():
    out = io.StringIO()
    console = Console(file=out, width=100, force_terminal=True, color_system=None, highlight=False)
    note = "loss 10.93 · 12.3 k/s · MFU 55 % · 12.5 min left"
    choice = Choice(name="moe", options={"num_experts": 16, "shared_experts": 1})
    settings = PretrainSettings(mlp=choice)
    axes = {"mlp": choice.label(), "activation_checkpointing": "selective"}
    trial = make_trial(settings=settings, protocol=PROTOCOLS["smoke"], device="cpu", seed=0, repeat=0, axes=axes)
    with RichWatcher(console) as watcher:
        watcher.trial(3, 12, trial)
        watcher.progress(events.Progress(done=512, total=1024, note=note))
    lines = [re.sub(r"\x1b\[[^m]*?[A-Za-z]", "", line).rstrip() for line in out.getvalue().splitlines()]
    assert any(note in line and "50 %" in line for line in lines), lines
    assert any(line.startswith("study") and "3/12" in line for line in lines)
    assert max(len(line) for line in lines) <= 100


def test_a_trial_is_told_the_peak_of_its_number_format_where_it_is_known():
    ceilings = Ceilings(matmul_peak_flop_per_s={"float32": 1e11, "bfloat16": 4e11})
    trials = [
        make_trial(settings=PretrainSettings(dtype=dtype), protocol=PROTOCOLS["smoke"], device="cpu", seed=0, repeat=0)
        for dtype in ("float32", "bfloat16", "float16")
    ]
    assert [matmul_peak(ceilings, trial) for trial in trials] == [1e11, 4e11, 0.0]
    assert matmul_peak(None, trials[0]) == 0.0
