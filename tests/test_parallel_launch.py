"""A trial of two ranks as the runner runs it: one record with both ranks and both devices; no rank outlives another."""

import json
import re
import signal
import time

import psutil
import pytest
from tests.ranks_program import settings_of

from efficientllm import registry
from efficientllm.bench.job import JobFile
from efficientllm.bench.launch import how_it_ended
from efficientllm.bench.places import Places
from efficientllm.bench.probe import probe_environment
from efficientllm.bench.runner import Run, TrialInterrupted, run_trial
from efficientllm.data.prepare import prepare
from efficientllm.devices.fake import FakeDevice
from efficientllm.models.checkpoint import load
from efficientllm.records import events
from efficientllm.records.protocol import PROTOCOLS
from efficientllm.records.trial import make_trial


def card(folder, number, power_w, others=()):
    """A card that draws so many watts all the time."""
    energy = {"points": [[0, 0], [600, 600 * power_w]], "linear": True, "update_every_s": 0.02, "cumulative": True}
    sensors = {"energy_j": energy, "process_memory_bytes": {"points": [[0, 1e9 * (number + 1)]]}}
    info = {"uuid": f"fake-{number}", "name": f"card {number}", "capacity_bytes": 8 * 10**9}
    path = folder / f"card{number}.json"
    script = {"origin_s": time.perf_counter(), "sensors": sensors, "info": info, "others": [str(p) for p in others]}
    path.write_text(json.dumps(script))
    return path


def run_of(text, folder, *, steps, **more):
    """The run of a trial of two ranks on two cards of 100 and 150 W."""
    from msgspec.structs import replace

    device = FakeDevice(str(card(folder, 0, 100.0, [card(folder, 1, 150.0)])))
    devices = device.group(2)
    settings = settings_of(text, ranks=2, **more)
    settings = replace(settings, tokens=steps * settings.rows_per_step * settings.sequence_tokens)
    prepare(settings, text / "cache", settings.tokens)
    trial = make_trial(settings=settings, protocol=PROTOCOLS["smoke"], device="fake", seed=0, repeat=0)
    environment = probe_environment(device, "code", 2, [other.info() for other in devices[1:]])
    job = JobFile(
        trial=trial,
        address=device.address,
        addresses=tuple(one.address for one in devices),
        cache=str(text / "cache"),
        threads=1,
        artifact=str(folder / "artifact"),
    )
    return Run(job, device, environment, "id", others=devices[1:])


@pytest.fixture(scope="module")
def measured(text, tmp_path_factory):
    folder = tmp_path_factory.mktemp("measured")
    return run_trial(run_of(text, folder, steps=60)), folder


def test_one_record_holds_the_steps_of_both_ranks_and_the_energy_of_both_devices(measured):
    record, _ = measured
    assert record.outcome == "ok", record.reason
    train = record.find("train")
    assert {s.rank for s in train.series if s.name == "step_s"} == {0, 1}
    assert len({len(s.values) for s in train.series if s.name == "step_s"}) == 1
    assert {(s.rank, s.device) for s in train.series if s.name == "energy_j"} == {(0, 0), (1, 1)}
    curve = record.find("curve")
    late_ratio = 0.05 + curve.figures["edge_error_j"] / curve.figures["energy_j"]  # what the record itself allows for
    assert curve.figures["power_mean_w"] == pytest.approx(250, rel=late_ratio)
    assert curve.figures["energy_j"] == pytest.approx(250 * (curve.end_s - curve.begin_s), rel=late_ratio)
    assert curve.figures["device_1_energy_j"] == pytest.approx(0.6 * curve.figures["energy_j"], rel=late_ratio)
    assert curve.figures["process_memory_peak_bytes"] == 2e9, "of the fuller device, not of both"
    assert {"rank_0_allocated_peak_bytes", "rank_1_allocated_peak_bytes", "allocated_peak_bytes"} <= set(train.figures)
    assert len(record.environment.devices) == 2
    assert registry.load("metric", "memory_peak").value(record, train) == 2e9
    assert [c.code for c in record.cautions] == ["unsteady"] or not record.cautions


def test_tokens_are_those_of_all_ranks_and_the_checkpoint_is_whole(measured):
    record, folder = measured
    assert record.figures["tokens_fed"] == record.trial.settings.tokens
    assert record.find("train").work.tokens == record.trial.settings.rows_per_step * 32
    weights = [parameter.numel() for parameter in load(folder / "artifact").parameters()]
    assert sum(weights) == record.model.parameters_total
    assert 4 * sum(weights) == record.model.weight_bytes


def test_what_the_ranks_say_to_each_other_is_a_part_of_the_step_and_moves_no_weight(measured):
    record, _ = measured
    train = record.find("train")
    share = registry.load("metric", "communication_share").value(record, train)
    assert share > 0  # below 1 too on a quiet machine; a neighbour may slow the steps that were looked at
    assert 3 * train.figures["communication_s_per_step"] < record.phases_s["communication"]
    assert "same cores" in train.absent["communication_exposed_s_per_step"]
    quality, last = record.find("quality").figures["heldout_nats_per_token"], record.find("curve").find("loss").values
    assert quality < last[0]


def ranks_of(torchrun):
    return [p for p in torchrun.children() if "efficientllm.bench.worker" in " ".join(p.cmdline())]


class WhenTraining:
    """Does something once the trial trains."""

    def __init__(self, act):
        self.act, self.ranks, self.at_s = act, [], 0.0

    def __call__(self, progress):
        if not self.ranks and "loss" in progress.note:
            (torchrun,) = (p for p in psutil.Process().children() if "torch.distributed.run" in " ".join(p.cmdline()))
            self.ranks, self.at_s = [torchrun, *ranks_of(torchrun)], time.perf_counter()
            assert len(self.ranks) == 3
            self.act(self.ranks)


def test_a_killed_rank_ends_the_trial_within_seconds_with_its_name_and_leaves_no_process(text, tmp_path):
    def kill_rank_1(processes):
        rank_1 = next(p for p in processes[1:] if p.environ()["RANK"] == "1")
        rank_1.send_signal(signal.SIGKILL)

    watcher = WhenTraining(kill_rank_1)
    record = run_trial(run_of(text, tmp_path, steps=600), watcher)
    assert time.perf_counter() - watcher.at_s < 8.0
    assert record.outcome == "crashed"
    assert record.reason.startswith("rank 1 was killed by SIGKILL"), record.reason
    assert record.find("curve").find("loss").values
    assert not [p for p in watcher.ranks if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def test_ctrl_c_ends_all_ranks_and_keeps_what_was_seen(text, tmp_path):
    def interrupt(_):
        raise KeyboardInterrupt

    watcher = WhenTraining(interrupt)
    with pytest.raises(TrialInterrupted) as stopped:
        run_trial(run_of(text, tmp_path, steps=600), watcher)
    assert stopped.value.measurement.outcome == "interrupted"
    assert stopped.value.measurement.find("curve").find("loss").values
    assert not [p for p in watcher.ranks if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def test_more_ranks_than_devices_are_unsupported_before_anything_starts(text, tmp_path):
    run = run_of(text, tmp_path, steps=1)
    device = FakeDevice(str(card(tmp_path, 0, 100.0)))
    said = Places(device).refused([run.job.trial])
    assert said == {run.job.trial.id: "ranks 2, but this machine has 1 fake device(s)"}


REPORT = "  rank      : {rank} (local_rank: {rank})\n  exitcode  : {code} (pid: 77)\n"


@pytest.mark.parametrize(
    ("ends", "output", "outcome", "says"),
    [
        ([("oom", "no memory"), None], "", "oom", "rank 0: no memory"),
        ([None, ("oom", "no memory")], "", "oom", "rank 1: no memory"),
        ([("diverged", "NaN at step 3")] * 2, "", "diverged", "NaN at step 3"),
        (
            [("crashed", "RuntimeError: Connection closed by peer"), ("crashed", "ValueError: odd")],
            "",
            "crashed",
            "odd",
        ),
        ([("crashed", "gloo: peer")] * 2, REPORT.format(rank=1, code=-9), "crashed", "rank 1 was killed by SIGKILL"),
        ([("crashed", "ValueError"), None], REPORT.format(rank=1, code=-15), "crashed", "rank 0: ValueError"),
        ([None, ("ok", "")], "it broke", "crashed", "rank 0 ended without a word.*it broke"),
        ([("ok", "")] * 2, "", "ok", ""),
    ],
)
def test_the_first_cause_of_a_failure_is_the_trials_end(ends, output, outcome, says):
    said = [None if end is None else events.End(outcome=end[0], reason=end[1]) for end in ends]
    end = how_it_ended(said, None, output)
    assert end.outcome == outcome
    assert re.search(says, end.reason)
