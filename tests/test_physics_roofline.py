"""The roofline's floor, and how near a step came to it."""

from __future__ import annotations

from msgspec.structs import replace

from efficientllm.physics import roofline
from efficientllm.records.environment import DeviceInfo
from efficientllm.records.examples import example_measurement, example_trial
from efficientllm.records.measurement import Ceilings
from efficientllm.records.settings import InferenceSettings
from efficientllm.records.window import Work

CEILINGS = Ceilings(matmul_peak_flop_per_s={"float32": 1e12}, read_bytes_per_s=2e9, copy_bytes_per_s=1e9)


def on_device(measurement, cache_bytes: int = 1000, ceilings: Ceilings | None = CEILINGS):
    device = DeviceInfo(kind="cuda", name="x", uuid="g", last_level_cache_bytes=cache_bytes)
    return replace(measurement, environment=replace(measurement.environment, devices=(device,)), ceilings=ceilings)


def decode(work: Work):
    trial = example_trial(InferenceSettings(), stage="inference")
    return on_device(example_measurement(trial=trial, window="decode", step_s=(2.0, 4.0, 30.0), work=work))


def test_attained_is_the_floor_over_the_median_step():
    measurement = decode(Work(moved_bytes=4e9, model_flops=1e12, working_set_bytes=1e6))
    assert roofline.attained(measurement, measurement.windows[0]) == 0.5


def test_decode_reads_and_training_copies():
    work = Work(moved_bytes=1.0, working_set_bytes=1e6)
    inference = decode(work)
    training = on_device(example_measurement(work=work))
    assert roofline.measured_roof(inference, inference.windows[0]).bytes_per_s == 2e9
    assert roofline.measured_roof(training, training.windows[0]).bytes_per_s == 1e9


def test_without_ceilings_nothing_is_attained():
    measurement = replace(decode(Work(model_flops=1e12)), ceilings=None)
    assert roofline.attained(measurement, measurement.windows[0]) is None


def test_a_working_set_below_four_caches_has_no_bandwidth_and_says_so():
    measurement = decode(Work(moved_bytes=4e9, working_set_bytes=3999))
    window = measurement.windows[0]
    assert roofline.cache_reason(measurement, window).startswith("cache_resident: a step touches less than 4 times")
    assert roofline.attained(measurement, window) is None


def test_a_device_that_hides_its_cache_has_no_bandwidth_either():
    measurement = on_device(decode(Work(moved_bytes=4e9, working_set_bytes=1e12)), cache_bytes=0)
    assert "does not tell" in roofline.cache_reason(measurement, measurement.windows[0])


def test_the_bound_is_the_ceiling_that_is_met_first():
    roof = roofline.Roof(flop_per_s=10.0, bytes_per_s=10.0)
    assert roofline.bound(Work(model_flops=5, moved_bytes=6), roof) == "memory"
    assert roofline.bound(Work(model_flops=6, moved_bytes=5), roof) == "compute"
    assert roofline.bound(Work(), roof) == ""


def test_a_cached_step_that_its_arithmetic_binds_still_has_a_floor():
    measurement = decode(Work(model_flops=1e12, moved_bytes=100, working_set_bytes=100))
    assert roofline.attained(measurement, measurement.windows[0]) == 0.25
