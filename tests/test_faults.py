"""What goes wrong around a trial ends as its outcome with a reason, and the study goes on. Real workers, planted faults."""

from __future__ import annotations

import errno
import json
import os
import time
from datetime import UTC, datetime

import pytest

from efficientllm.bench.study import StudyRun
from efficientllm.devices.fake import FakeDevice
from efficientllm.recipes.expand import expand
from efficientllm.recipes.load import recipe_from_text
from efficientllm.store import atomic
from efficientllm.store.folder import Study

RECIPE = """
name: faults
repeats: 1
protocol: {{name: smoke, idle_s: 0.4}}
stages:
  - name: pretrain
    workload: pretrain
    shape: {{num_layers: 1, width: 64, num_heads: 2, num_kv_heads: 1, head_dim: 32, mlp_width: 96}}
    corpus: {corpus}
    vocab_tokens: 320
    sequence_tokens: 32
    micro_batch: 2
    tokens: 1280
    heldout_tokens: 256
    axes: {{mixer: [{mixers}]}}
"""
INFERENCE = """
  - name: inference
    workload: inference
    from: pretrain
    prefill: [{batch: 1, tokens: 32}]
    decode: [{batch: 2, tokens: 48}]
"""

#: Raises what CUDA's allocator raises, in its Nth call with or without gradients.
GREEDY = '''
"""A mixer for which memory runs out."""
import torch
from dataclasses import replace

from efficientllm import registry

GQA = registry.load("mixer", "gqa")


def build(shape, training=True, call=1):
    """Return grouped-query attention that fails in one of its calls."""
    mixer = GQA.build(shape)
    forward, calls = mixer.forward, 0

    def greedy(*arguments, **named):
        nonlocal calls
        calls += torch.is_grad_enabled() == training
        if calls >= call:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return forward(*arguments, **named)

    mixer.forward = greedy
    return mixer


ENTRY = replace(GQA, build=build)
'''


class Silent:
    """A watcher that keeps what it is told."""

    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)

    def trial(self, index, total, trial): ...

    def progress(self, progress): ...

    def ended(self, measurement, *, stored_before): ...


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    file = tmp_path_factory.mktemp("text") / "text.txt"
    file.write_text("".join(f"line {j}: the {j % 7} quick foxes jump over {j % 5} lazy dogs\n" for j in range(1500)))
    return file


def steady(power_w=100.0, **more):
    """A fake card that draws so much, whose counter moves every 20 ms."""
    energy = {"points": [[0, 0], [1000, 1000 * power_w]], "linear": True, "update_every_s": 0.02, "cumulative": True}
    power = {"points": [[0, power_w]]}
    return {"sensors": {"energy_j": energy, "power_w": power, **more}, "info": {"power_cap_w": 300.0}}


def study_run(folder, script, text):
    path = folder / "device.json"
    path.write_text(json.dumps({"origin_s": time.perf_counter(), **script}))
    device = FakeDevice(str(path))
    recipe = recipe_from_text(text, "faults.yaml")
    results = folder / "results"
    return StudyRun(
        plan=expand(recipe, "fake"), study=Study(results, "faults"), results=results, device=device, watcher=Silent()
    )


def run(folder, script, text):
    done = study_run(folder, script, text)
    done.run()
    return {(m.trial.stage, m.trial.technique()): m for m in done.measurements}


def test_a_trial_on_a_steady_card_has_idle_power_with_and_without_a_context_and_energy_net_of_it(tmp_path, corpus):
    recipe = RECIPE.format(corpus=corpus, mixers="mha")
    resting = recipe.replace("idle_s: 0.4", "idle_s: 2.0")  # a busy machine reads late
    measured = run(tmp_path, steady(), resting)["pretrain", "mha"]
    assert measured.outcome == "ok", measured.reason
    assert measured.figures["idle_power_w"] == pytest.approx(100, rel=0.05)
    assert measured.figures["idle_context_power_w"] == pytest.approx(100, rel=0.05)
    assert 0 < measured.figures["startup_s"] < 60
    curve = measured.find("curve")
    late_ratio = 0.05 + curve.figures["edge_error_j"] / curve.figures["energy_j"]  # what the record itself allows for
    assert curve.figures["power_mean_w"] == pytest.approx(100, rel=late_ratio)
    assert abs(curve.figures["energy_net_j"]) < (0.05 + late_ratio) * curve.figures["energy_j"]
    assert "--external" in curve.absent["energy_systematic_bound_ratio"]


def test_counters_without_permission_are_absent_with_the_reason_and_the_trial_is_whole(tmp_path, corpus):
    why = "energy counter: no permission to read it. Run `sudo chmod …`"
    measured = run(tmp_path, {"absent": {"energy_j": why}}, RECIPE.format(corpus=corpus, mixers="mha"))
    measured = measured["pretrain", "mha"]
    assert measured.outcome == "ok", measured.reason
    assert "energy_j" not in measured.find("train").figures
    assert measured.absent["energy_j"] == why


def test_a_driver_that_vanishes_in_mid_run_ends_its_series_and_not_the_trial(tmp_path, corpus):
    script = steady()
    for sensor in script["sensors"].values():
        sensor |= {"fails_at_s": 3.0, "fails_with": "the driver vanished"}
    measured = run(tmp_path, script, RECIPE.format(corpus=corpus, mixers="mha"))["pretrain", "mha"]
    assert measured.outcome == "ok", measured.reason
    assert "the driver vanished" in measured.absent["energy_j"]
    assert "energy_j" not in measured.find("quality").figures
    assert measured.find("curve").find("loss").values


def test_a_meter_in_the_cards_supply_bounds_the_systematic_error_of_its_sensor(tmp_path, corpus):
    now_s = datetime.now(UTC).timestamp()
    rows = (f"{now_s - 1 + i / 100:.3f},105" for i in range(30_000))  # the window lasts some 60 ms
    (tmp_path / "meter.csv").write_text("# scope: device\n" + "\n".join(rows) + "\n")
    done = study_run(tmp_path, steady(), RECIPE.format(corpus=corpus, mixers="mha"))
    done.external = tmp_path / "meter.csv"
    (measured,) = done.run()
    curve = measured.find("curve")
    own_w = curve.figures["power_mean_w"]  # 100, but for the edges of so short a window
    assert curve.figures["energy_systematic_bound_ratio"] == pytest.approx(105 / own_w - 1, rel=1e-9)
    assert curve.find("external_power_w").values[0] == 105
    assert measured.figures["external_idle_power_w"] == pytest.approx(105)


@pytest.fixture(scope="module")
def greedy(tmp_path_factory, corpus):
    """One study in which memory runs out in warm-up, in the window, in quality, and in one trial not at all."""
    folder = tmp_path_factory.mktemp("greedy")
    (folder / "greedy.py").write_text(GREEDY)
    path = f"{folder / 'greedy.py'}"
    where = {"warm-up": "call: 2", "window": "call: 12", "quality": "training: false"}
    mixers = ", ".join(f"{{name: {path}, {options}}}" for options in where.values())
    found = run(folder, steady(), RECIPE.format(corpus=corpus, mixers=f"{mixers}, mha") + INFERENCE)
    labels = {"greedy(call=2)": "warm-up", "greedy(call=12)": "window", "greedy(training=False)": "quality"}
    return {(stage, labels.get(name, name)): m for (stage, name), m in found.items()}


@pytest.mark.parametrize("where", ["warm-up", "window"])
def test_out_of_memory_in_training_ends_the_trial_as_oom_and_keeps_what_was_seen(greedy, where):
    measured = greedy["pretrain", where]
    assert (measured.outcome, measured.find("curve").outcome) == ("oom", "oom")
    assert "out of memory" in measured.reason
    assert bool(measured.find("curve").find("loss")) is True
    assert (measured.find("train") is not None) is (where == "window")
    assert greedy["inference", where].outcome == "oom"
    assert "no checkpoint to start from" in greedy["inference", where].reason


def test_out_of_memory_in_quality_takes_nothing_from_the_windows_before_it(greedy):
    measured = greedy["pretrain", "quality"]
    assert measured.outcome == "ok"
    assert measured.find("train").outcome == "ok"
    assert measured.find("quality").outcome == "oom"
    assert "out of memory" in measured.find("quality").reason


def test_out_of_memory_at_one_point_of_a_grid_leaves_the_others_to_be_measured(greedy):
    outcomes = {w.name: w.outcome for w in greedy["inference", "quality"].windows if w.name != "idle"}
    assert outcomes == {"prefill": "oom", "decode": "oom", "quality": "oom"}
    assert {w.outcome for w in greedy["inference", "mha"].windows} == {"ok"}


def disk_with(room_bytes):
    """A disk that takes no file larger than that."""
    sync = os.fsync

    def fsync(handle):
        if os.fstat(handle).st_size > room_bytes:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(handle)

    return fsync


def test_a_disk_with_room_for_little_keeps_the_outcome_and_the_next_run_measures_again(tmp_path, corpus, monkeypatch):
    text = RECIPE.format(corpus=corpus, mixers="mha, mqa")
    with monkeypatch.context() as full:
        full.setattr(atomic.os, "fsync", disk_with(12_000))
        told = run(tmp_path, steady(), text)
    assert {m.outcome for m in told.values()} == {"crashed"}
    assert all("not stored" in m.reason and "No space left on device" in m.reason for m in told.values())
    study = Study(tmp_path / "results", "faults")
    assert {(m.outcome, m.windows) for m in study.read_all()[0]} == {("crashed", ())}
    again = run(tmp_path, steady(), text)
    assert {m.outcome for m in again.values()} == {"ok"}
    assert len(study.read_all()[0]) == 4


def test_a_disk_without_any_room_stops_no_study(tmp_path, corpus, monkeypatch):
    text = RECIPE.format(corpus=corpus, mixers="mha")
    done = study_run(tmp_path, steady(), text)
    done.study.check_writable()
    monkeypatch.setattr(done.study, "check_writable", lambda: None)
    done._prepare()
    monkeypatch.setattr(atomic.os, "fsync", disk_with(0))
    monkeypatch.setattr(done, "_prepare", lambda: None)
    (measured,) = done.run()
    assert measured.outcome == "crashed"
    assert "No space left on device" in measured.reason
    assert done.study.read_all() == ([], [])


def test_a_busy_device_is_not_calibrated_and_the_study_says_so_and_goes_on(tmp_path, corpus):
    script = steady(busy_ratio={"points": [[0, 0.4]]})
    standard = RECIPE.format(corpus=corpus, mixers="mha").replace("name: smoke", "name: standard, cool_down_max_s: 2.0")
    done = study_run(tmp_path, script, standard)
    done.patience_s = 0.0
    (measured,) = done.run()
    assert any("not calibrated: something runs on fake for 40" in note for note in done.watcher.notes)
    assert measured.outcome == "ok" and measured.ceilings is None
    assert not Study(tmp_path / "results", "calibration").files()
