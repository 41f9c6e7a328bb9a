"""The fake device replays what its script says, at the time it says."""

import math

import pytest

from efficientllm.devices._contract import SensorError
from efficientllm.devices.fake import FakeDevice


def playing(script):
    now = [0.0]
    return FakeDevice({"origin_s": 0.0, **script}, clock=lambda: now[0]), now


def test_values_hold_until_the_next_and_are_unknown_before_the_first():
    device, now = playing({"sensors": {"power_w": {"points": [[1, 100], [2, 700]]}}})
    read = device.sensor("power_w", []).read
    seen = []
    for now[0] in (0.5, 1.0, 1.9, 2.0, 9.0):
        seen.append(read())
    assert math.isnan(seen[0]) and seen[1:] == [100, 100, 700, 700]


def test_a_counter_moves_only_at_its_updates():
    device, now = playing({"sensors": {"energy_j": {"value": lambda s: 500 * s, "update_every_s": 0.1}}})
    read = device.sensor("energy_j", []).read
    seen = []
    for now[0] in (0.0, 0.05, 0.1, 0.199, 0.2):
        seen.append(read())
    assert seen == pytest.approx([0, 0, 50, 50, 100])


def test_a_driver_that_vanishes_raises_from_then_on():
    device, now = playing({"sensors": {"power_w": {"points": [[0, 1]], "fails_at_s": 3, "fails_with": "gone"}}})
    read = device.sensor("power_w", []).read
    assert read() == 1
    now[0] = 3.0
    with pytest.raises(SensorError, match="gone"):
        read()


def test_what_the_script_leaves_out_is_absent_with_its_reason():
    device, _ = playing({"absent": {"energy_j": "this fake has no counter"}})
    with pytest.raises(SensorError, match="this fake has no counter"):
        device.sensor("energy_j", [])


def test_memory_runs_out_at_the_capacity_and_the_peak_is_kept():
    device, _ = playing({"info": {"capacity_bytes": 100}})
    device.allocate(80)
    device.allocate(-50)
    with pytest.raises(RuntimeError) as caught:
        device.allocate(71)
    assert device.is_out_of_memory(caught.value)
    assert device.allocator_figures() == {"allocated_peak_bytes": 80, "reserved_peak_bytes": 80}
    device.reset_peak_memory()
    assert device.allocator_figures()["allocated_peak_bytes"] == device.process_memory_bytes() == 30


def test_foreign_processes_come_and_go():
    device, now = playing({"foreign": [[1, [7, 8]], [2, []]]})
    seen = []
    for now[0] in (0.0, 1.0, 2.0):
        seen.append(device.foreign_pids([8]))
    assert seen == [[], [7], []]
