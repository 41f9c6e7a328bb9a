"""The figures of a window, against truths that can be written down."""

import math
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from efficientllm.devices.cpu import CpuDevice
from efficientllm.meters.energy_budget import counter_figures
from efficientllm.meters.integrate import NotCovered, integral
from efficientllm.meters.samples import Samples
from efficientllm.meters.self_cost import metered_beside_bare, sampler_cost_ratio
from efficientllm.meters.windows import window_figures
from efficientllm.records.environment import DeviceInfo
from efficientllm.records.series import Series

GPU = DeviceInfo(kind="fake", name="fake", uuid="f-0", cores=132)
CPU = DeviceInfo(kind="cpu", name="cpu", uuid="c-0", cores=2)


def series(name, points, unit="", source="test (scope: gpu)"):
    return Series(
        name=name, unit=unit, at_s=tuple(p[0] for p in points), values=tuple(p[1] for p in points), source=source
    )


def sampled(name, value, end_s, every_s=0.05, **more):
    return series(name, [(n * every_s, value(n * every_s)) for n in range(math.ceil(end_s / every_s) + 1)], **more)


def samples_of(*all_series, device=GPU, cumulative=(), absent=None, **more):
    return Samples(
        device=device,
        series={one.name: one for one in all_series},
        absent=absent or {},
        cumulative=frozenset({"energy_j", "processor_s", "machine_processor_s", "sampler_processor_s", *cumulative}),
        **{"begin_s": 0.0, "end_s": 1e9, "processors": 4, **more},
    )


def stepped_counter(energy_j, every_s=0.1):
    """A driver's counter: the true energy so far, told only at its updates."""
    return lambda at_s: energy_j(math.floor(at_s / every_s + 1e-9) * every_s)


def at(power_w):
    """The true energy at steady power."""
    return lambda at_s: power_w * at_s


# energy ----------------------------------------------------------------------------------------------------------


def test_energy_at_steady_power_is_power_times_time():
    samples = samples_of(sampled("energy_j", stepped_counter(at(500.0)), 12))
    _, figures, _ = window_figures(samples, 1.033, 11.077)
    assert figures["energy_j"] == pytest.approx(500 * 10.044)
    assert figures["power_mean_w"] == pytest.approx(500)
    assert figures["num_energy_updates"] == pytest.approx(100, abs=1)
    assert figures["energy_snapped_j"] == pytest.approx(500 * figures["energy_snapped_s"])
    assert "energy_resolution_j" not in figures


def test_what_was_drawn_before_and_after_the_window_does_not_leak_into_it():
    def energy_j(at_s):
        return 80 * at_s + 520 * min(max(at_s - 2, 0), 6)

    samples = samples_of(sampled("energy_j", stepped_counter(energy_j), 10))
    _, figures, _ = window_figures(samples, 2.0, 8.0)
    assert figures["energy_j"] == pytest.approx(3600, rel=0.02)
    _, idle, _ = window_figures(samples, 0.0, 1.95)
    assert idle["power_mean_w"] == pytest.approx(80, rel=0.02)


@settings(max_examples=60, deadline=None)
@given(
    begin_s=st.floats(0.2, 1.0),
    length_s=st.floats(0.45, 6.0),
    power_w=st.floats(50, 700),
    swing=st.floats(0, 0.5),
    every_s=st.sampled_from([0.02, 0.05, 0.07]),
)
def test_the_true_energy_lies_within_the_stated_edge_error(begin_s, length_s, power_w, swing, every_s):
    def energy_j(at_s):
        return power_w * (at_s - swing * math.cos(2 * math.pi * at_s / 3) * 3 / (2 * math.pi))

    samples = samples_of(sampled("energy_j", stepped_counter(energy_j), 7.5, every_s))
    _, figures, _ = window_figures(samples, begin_s, begin_s + length_s)
    truth = energy_j(begin_s + length_s) - energy_j(begin_s)
    assert abs(figures["energy_j"] - truth) <= figures["edge_error_j"] + 0.01 * truth
    assert figures["edge_error_j"] <= 4 * power_w * (1 + swing) * max(every_s, 0.1)


def test_the_edge_error_is_the_pause_between_two_readings_times_the_power_at_each_edge():
    samples = samples_of(sampled("energy_j", stepped_counter(at(500.0)), 12))
    _, figures, _ = window_figures(samples, 1.0, 11.0)
    assert figures["edge_error_j"] == pytest.approx(2 * 0.05 * 500, rel=1e-3)


def test_a_short_window_carries_the_counters_resolution():
    samples = samples_of(sampled("energy_j", stepped_counter(at(500.0)), 3))
    _, figures, _ = window_figures(samples, 0.5, 1.5)
    assert figures["energy_resolution_j"] == pytest.approx(50, rel=0.01)


def test_fifty_updates_are_enough_for_a_window_under_five_seconds():
    samples = samples_of(sampled("energy_j", lambda s: 500 * s, 4, 0.02))
    _, figures, _ = window_figures(samples, 0.5, 3.5)
    assert "energy_resolution_j" not in figures


def test_a_window_in_which_the_counter_hardly_moves_has_no_energy_and_says_why():
    samples = samples_of(sampled("energy_j", stepped_counter(at(500.0)), 3))
    _, figures, absent = window_figures(samples, 1.02, 1.16)
    assert "energy_j" not in figures and "cross_check_ratio" not in figures
    assert "moved 1 time(s)" in absent["energy_j"] and "measure longer" in absent["energy_j"]


def test_a_counter_that_starts_anew_is_refused():
    counter = series("energy_j", [(0, 1000.0), (0.1, 1010.0), (0.2, 5.0), (0.3, 15.0)])
    with pytest.raises(NotCovered, match="went backwards"):
        counter_figures(counter, 0.0, 0.35)


def test_the_counter_is_checked_against_integrated_power():
    samples = samples_of(sampled("energy_j", stepped_counter(at(500.0)), 8), sampled("power_w", lambda s: 520.0, 8))
    _, figures, _ = window_figures(samples, 1.0, 7.0)
    assert figures["cross_check_ratio"] == pytest.approx(0.04, abs=0.002)
    assert figures["energy_integrated_j"] == pytest.approx(3120)
    assert figures["power_peak_w"] == 520


def test_the_present_power_is_preferred_to_a_trailing_average():
    samples = samples_of(
        sampled("energy_j", stepped_counter(at(500.0)), 8),
        sampled("power_w", lambda s: 300.0, 8),
        sampled("power_instant_w", lambda s: 500.0, 8),
    )
    _, figures, _ = window_figures(samples, 1.0, 7.0)
    assert figures["cross_check_ratio"] == pytest.approx(0, abs=0.002)


def test_a_power_reading_of_another_scope_is_no_check():
    samples = samples_of(
        sampled("energy_j", stepped_counter(at(500.0)), 8, source="nvml (scope: module)"),
        sampled("power_w", lambda s: 300.0, 8, source="nvml (scope: gpu)"),
    )
    _, figures, absent = window_figures(samples, 1.0, 7.0)
    assert figures["energy_j"] == pytest.approx(3000)
    assert "cross_check_ratio" not in figures and "module" in absent["cross_check_ratio"]


def test_without_a_counter_energy_is_integrated_power_and_said_to_be():
    samples = samples_of(sampled("power_w", lambda s: 100 + 10 * s, 8), absent={"energy_j": "no counter on this card"})
    _, figures, absent = window_figures(samples, 2.0, 6.0)
    assert figures["energy_j"] == pytest.approx(560)
    assert absent["energy_counter_j"] == "no counter on this card; energy_j is integrated power"
    assert "energy_j" not in absent


def test_without_power_and_counter_energy_is_absent_and_never_zero():
    _, figures, absent = window_figures(samples_of(absent={"energy_j": "no RAPL domain"}), 0, 5)
    assert not [name for name in figures if name.startswith(("energy", "power"))]
    assert absent["energy_j"] == "no RAPL domain"


def test_net_energy_takes_off_idle_power_and_carries_its_drift():
    samples = samples_of(sampled("energy_j", stepped_counter(at(500.0)), 12))
    _, figures, absent = window_figures(samples, 1.0, 11.0, idle_power_w=(78.0, 80.0))
    assert figures["energy_net_j"] == pytest.approx(5000 - 790)
    assert figures["idle_drift_j"] == pytest.approx(20)
    _, once, _ = window_figures(samples, 1.0, 11.0, idle_power_w=(78.0,))
    assert "idle_drift_j" not in once and once["energy_net_j"] == pytest.approx(5000 - 780)
    _, gross, absent = window_figures(samples, 1.0, 11.0)
    assert "energy_net_j" not in gross and "idle power" in absent["energy_net_j"]


# levels and shares -----------------------------------------------------------------------------------------------


def test_means_are_weighted_by_time_and_peaks_are_what_was_seen():
    memory = series("process_memory_bytes", [(0, 10.0), (1, 10.0), (1.001, 90.0), (2, 90.0), (9, 90.0)])
    cut, figures, _ = window_figures(samples_of(memory), 0.0, 4.0)
    assert figures["process_memory_mean_bytes"] == pytest.approx(70, rel=0.001)
    assert figures["process_memory_peak_bytes"] == 90 and figures["process_memory_low_bytes"] == 10
    assert cut[0].values == (10.0, 10.0, 90.0, 90.0)


@given(
    st.lists(st.tuples(st.floats(0.01, 2), st.floats(-100, 100)), min_size=2, max_size=20),
    st.floats(0, 1),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_integrals_over_neighbouring_spans_add_up(steps, a, b, c):
    points, now_s = [], 0.0
    for pause_s, value in steps:
        now_s += pause_s
        points.append((now_s, value))
    span = points[-1][0] - points[0][0]
    edges = sorted(points[0][0] + part * span for part in (a, b, c))
    if min(y - x for x, y in pairwise(edges)) < 1e-9:
        return
    one = series("x_w", points)
    parts = integral(one, edges[0], edges[1]) + integral(one, edges[1], edges[2])
    assert integral(one, edges[0], edges[2]) == pytest.approx(parts, abs=1e-6)


def test_the_busy_share_of_a_processor_comes_from_its_seconds():
    used = sampled("processor_s", lambda s: 10 + (1.5 * s if s < 5 else 7.5), 10)
    samples = samples_of(used, device=CPU, absent={"busy_ratio": "derived"})
    cut, figures, absent = window_figures(samples, 1.013, 4.027)
    assert figures["processor_s"] == pytest.approx(1.5 * 3.014)
    assert figures["busy_mean_ratio"] == pytest.approx(0.75)
    assert figures["busy_peak_ratio"] == pytest.approx(0.75)
    assert "busy_ratio" not in absent
    assert next(one for one in cut if one.name == "busy_ratio").unit == "ratio"


def test_what_others_took_of_the_machine_is_told():
    samples = samples_of(
        sampled("processor_s", lambda s: 1.0 * s, 10),
        sampled("machine_processor_s", lambda s: 5000 + 2.51 * s, 10),
        sampled("sampler_processor_s", lambda s: 0.1 + 0.01 * s, 10),
        device=CPU,
    )
    _, figures, _ = window_figures(samples, 2, 8)
    assert figures["foreign_busy_ratio"] == pytest.approx(1.5 / 4)
    assert figures["sampler_cost_ratio"] == pytest.approx(0.01 / 4)


def test_a_machine_that_does_not_count_this_process_tells_nothing_of_others():
    samples = samples_of(
        sampled("processor_s", lambda s: 1.0 * s, 10), sampled("machine_processor_s", lambda s: 5.0, 10), device=CPU
    )
    _, figures, absent = window_figures(samples, 2, 8)
    assert "foreign_busy_ratio" not in figures and "sandbox" in absent["foreign_busy_ratio"]


def test_throttling_by_heat_and_by_the_power_limit_are_told_apart():
    bits = [0x1, 0x4, 0x4, 0x4 | 0x20, 0x40]
    _, figures, _ = window_figures(samples_of(series("throttle_reasons", list(enumerate(bits)), unit="bits")), 0, 4)
    assert figures == {"power_capped_ratio": 0.6, "throttled_ratio": 0.4}


def test_a_quantity_that_ended_later_is_present_in_earlier_windows():
    power = sampled("power_w", lambda s: 100.0, 3)
    samples = samples_of(power, absent={"power_w": "ended 3.0 s in: the driver vanished"})
    _, early, absent_early = window_figures(samples, 0.5, 2.5)
    _, late, absent_late = window_figures(samples, 5.0, 9.0)
    assert early["energy_j"] == pytest.approx(200) and "power_w" not in absent_early
    assert "energy_j" not in late and "driver vanished" in absent_late["power_w"]
    _, across, absent_across = window_figures(samples, 2.0, 6.0)
    assert "energy_j" not in across and "cover 1 s of the window's 4 s" in absent_across["energy_j"]


def test_a_window_between_two_readings_has_nothing_and_says_so():
    temperature = series("temperature_c", [(0, 40.0), (1, 41.0), (2, 42.0)])
    cut, figures, absent = window_figures(samples_of(temperature, interval_s=1.0), 1.2, 1.4)
    assert cut == [] and figures == {}
    assert absent["temperature_c"] == "no reading fell into this window of 0.2 s; they are 1 s apart"


def test_a_quantity_of_a_users_own_meter_is_summed_up_by_its_name():
    samples = samples_of(
        sampled("pages_bytes", lambda s: 10 * s, 4),
        sampled("requests_count", lambda s: 3 * s, 4, unit="count"),
        cumulative=["requests_count"],
    )
    _, figures, _ = window_figures(samples, 1, 3)
    assert figures["pages_mean_bytes"] == pytest.approx(20)
    assert figures["requests_count"] == pytest.approx(6)


# what it costs ---------------------------------------------------------------------------------------------------


def test_the_samplers_cost_leaves_out_its_own_start():
    own = series("sampler_processor_s", [(0, 0.5), (10, 0.9)])
    assert sampler_cost_ratio(samples_of(own)) == pytest.approx(0.01)
    assert sampler_cost_ratio(samples_of()) is None


def test_a_metered_loop_is_held_beside_a_bare_one():
    figures = metered_beside_bare(CpuDevice(), lambda: sum(range(20000)), rounds=2, round_s=0.05)
    assert figures["bare_s"] > 0 and figures["metered_s"] > 0
    assert figures["metered_slowdown_ratio"] == pytest.approx(figures["metered_s"] / figures["bare_s"] - 1)
    assert figures["bare_spread_ratio"] >= 0 and figures["sampler_start_s"] > 0
