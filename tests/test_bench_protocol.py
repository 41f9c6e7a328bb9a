"""Cool-down, idle time, and whether somebody else is at work: on a scripted card and on this processor."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from efficientllm.bench.ceilings import calibrate
from efficientllm.bench.protocol import settle
from efficientllm.bench.quiet import others_at_work, wait_for_quiet
from efficientllm.devices.cpu import CpuDevice
from efficientllm.devices.fake import FakeDevice
from efficientllm.errors import DeviceBusy
from efficientllm.records.protocol import Protocol

QUICK = Protocol(cool_down_max_s=3.0, idle_s=0.1)


def card(**sensors):
    return FakeDevice({"sensors": sensors})


def track(*points, **more):
    return {"points": list(points), **more}


def test_a_card_at_rest_is_waited_for_a_second_and_then_watched_idle():
    rest = settle([card(power_w=track([0, 80]), clock_hz=track([0, 345e6]))], QUICK)
    assert 0.8 < rest.cool_down_s < 2.0
    assert rest.end_s - rest.begin_s >= 0.1


def test_cool_down_lasts_until_power_has_fallen():
    rest = settle([card(power_w=track([0, 600], [1.2, 80], linear=True))], QUICK)
    assert 1.2 < rest.cool_down_s < 3.0


def test_clocks_must_settle_too():
    falling = track([0, 1980e6], [1.5, 345e6], linear=True)
    rest = settle([card(power_w=track([0, 80]), clock_hz=falling)], QUICK)
    assert 1.5 < rest.cool_down_s < 3.0


@pytest.mark.parametrize(
    "power_w",
    [
        track([0, 600], [10, 80], linear=True),
        track([0, 80], fails_at_s=0.3, fails_with="the driver vanished"),
        track([50, 80]),
    ],
    ids=["falls all the time", "vanishes", "says nothing"],
)
def test_what_does_not_settle_costs_the_longest_wait_and_no_more(power_w):
    rest = settle([card(power_w=power_w)], Protocol(cool_down_max_s=1.3, idle_s=0.0))
    assert rest.cool_down_s == pytest.approx(1.3, abs=0.3)
    assert rest.begin_s == rest.end_s


def test_a_device_that_tells_no_power_is_not_waited_for():
    begin_s = time.perf_counter()
    rest = settle([card(clock_hz=track([0, 1e9]))], QUICK)
    assert (rest.cool_down_s, rest.end_s - rest.begin_s) == (0.0, 0.0)
    assert time.perf_counter() - begin_s < 0.5


def test_a_device_with_a_counter_alone_is_watched_idle():
    rest = settle([card(energy_j=track([0, 0], cumulative=True))], QUICK)
    assert rest.end_s - rest.begin_s >= 0.1


@pytest.mark.parametrize(("share", "busy"), [(0.0, False), (0.04, False), (0.06, True), (1.0, True)])
def test_a_card_is_busy_above_a_twentieth_of_the_time(share, busy):
    assert bool(others_at_work(card(busy_ratio=track([0, share])))) is busy


def test_who_is_at_work_is_named():
    device = FakeDevice({"sensors": {"busy_ratio": track([0, 0.5])}, "foreign": [[0, [4711]]]})
    assert others_at_work(device) == "something runs on fake for 50.0 % of the time (processes 4711)"


def test_a_neighbour_that_ends_is_waited_for():
    assert wait_for_quiet(card(busy_ratio=track([0, 0.9], [1.5, 0.0])), patience_s=6.0) == ""


def test_a_processor_is_busy_while_others_compute_on_it():
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
    try:
        time.sleep(0.3)
        assert "other processes take" in others_at_work(CpuDevice())
    finally:
        for other in others:
            other.kill()
            other.wait()


def test_a_busy_device_is_refused_and_nothing_is_stored(tmp_path):
    device = card(busy_ratio=track([0, 0.9]))
    with pytest.raises(DeviceBusy, match=r"not calibrated: something runs on fake for 90.0 %.*efficientllm calibrate"):
        calibrate(tmp_path, device, 1, lambda progress: None, patience_s=0.0)
    assert not list(tmp_path.rglob("*.json"))
