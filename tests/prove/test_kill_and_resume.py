"""A run that is killed a dozen times at chance instants has the losses and the quality of one that was left alone."""

import random

import pytest
from tests.fragile_runs import Fragile, curve_of

pytestmark = pytest.mark.prove

STEPS, KILLS = 160, 12


def planned(seed):
    """Draw what happens to each attempt: a few steps on, or in the middle of writing, by each of the ways to die."""
    draw = random.Random(seed)
    kills = []
    for number in range(KILLS):
        kind = ("pass", "sync", "runner", "ctrl-c")[number % 4]
        kills.append(f"{kind} {draw.randint(1, 14) if kind == 'sync' else draw.randint(5, 16)}")
    return kills


def test_a_dozen_kills_leave_no_trace_in_the_losses(tmp_path):
    runs = Fragile(tmp_path, steps=STEPS, every=3)
    runs.plan()
    calm = runs.call("calm")
    assert calm.outcome == "ok", calm.reason
    plan = planned(seed=5)
    runs.plan(*plan)
    begun = []
    for kill in plan:
        if kill.startswith("runner"):
            assert runs.call_apart("killed") < 0
            continue
        try:
            measured = runs.call("killed")
        except KeyboardInterrupt:
            assert kill.startswith("ctrl-c")
            continue
        assert measured.outcome == "crashed", (kill, measured.outcome, measured.reason)
        begun.append(measured.figures.get("resumed_step", 0.0))
        assert len(runs.checkpoints("killed")) <= 3  # two, and a draft
    assert begun == sorted(begun) and begun[-1] > 20
    done = runs.call("killed")
    assert done.outcome == "ok", done.reason
    assert [m.id for m in runs.stored("killed") if m.outcome == "ok"] == [done.id]
    assert curve_of(done) == curve_of(calm) and len(curve_of(done)["loss"]) == STEPS
    assert (
        done.find("quality").figures["heldout_nats_per_token"] == calm.find("quality").figures["heldout_nats_per_token"]
    )
    assert not runs.checkpoints("killed")
