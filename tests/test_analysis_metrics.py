"""Every metric of the folder keeps the contract; a missing quantity is absent with its reason, never 0."""

from __future__ import annotations

import inspect
import math

import pytest
from msgspec.structs import replace

from efficientllm import catalog
from efficientllm.analysis import catalogue
from efficientllm.analysis.examples import example_study
from efficientllm.analysis.metrics._contract import (
    ALL_WINDOWS,
    CHECKED,
    FOUND,
    GROUPS,
    HELD,
    TASKS,
    Absent,
    MetricEntry,
)
from efficientllm.analysis.metrics._reading import time_mean
from efficientllm.analysis.values import all_metrics
from efficientllm.records.examples import example_measurement, example_trial
from efficientllm.records.measurement import Ceilings, Measurement
from efficientllm.records.series import Series
from efficientllm.records.settings import InferenceSettings
from efficientllm.records.window import Window, Work
from efficientllm.units import quantity_text

ENTRIES = {entry.column.key: entry for entry in catalogue.entries()}
STUDY = example_study(repeats=1, kind="cuda", energy=True)
TRAINED, USED = STUDY[1], STUDY[5]


def value(key: str, measurement: Measurement, window: Window, baseline: Measurement | None = None):
    return ENTRIES[key].value(measurement, window, baseline)


@pytest.mark.parametrize("name", catalog.names("metric"))
def test_a_metric_is_named_after_its_file_and_says_what_it_means(name):
    entry = ENTRIES[name]
    assert isinstance(entry, MetricEntry)
    assert entry.group in (*GROUPS, "model")
    assert entry.column.better in ("low", "high", "")
    assert entry.column.meaning and entry.column.title
    assert (entry.measure is None) != (entry.against is None)
    assert set(entry.headline) <= set(entry.windows) <= {*ALL_WINDOWS, *CHECKED, *FOUND, *HELD, *TASKS}
    function = entry.measure or entry.against
    assert function.__name__ == name
    assert ">>> " in inspect.getdoc(function)
    assert quantity_text(1.5, entry.column.unit)


@pytest.mark.parametrize("name", catalog.names("metric"))
def test_a_metric_of_an_empty_window_is_absent_with_a_reason(name):
    entry = ENTRIES[name]
    bare = example_measurement(step_s=(), work=Work(), window=entry.windows[0])
    window = replace(bare.windows[0], series=(), end_s=0.0)
    found = entry.value(replace(bare, windows=(window,)), window, bare)
    assert isinstance(found, Absent)
    assert len(found.reason) > 8


@pytest.mark.parametrize("name", catalog.names("metric"))
def test_a_metric_is_a_finite_number_or_absent_on_a_real_record(name):
    for measurement in (TRAINED, USED):
        for window in measurement.windows:
            found = value(name, measurement, window, STUDY[0])
            assert isinstance(found, Absent) or math.isfinite(found)


@pytest.mark.parametrize("window", ["train", "prefill", "decode", "user"])
def test_each_window_has_one_headline_of_each_of_the_six_metrics_and_quality(window):
    assert [entry.group for entry in catalogue.headline(window)] == list(GROUPS)


def test_the_papers_acronyms_say_which_quantity_they_are():
    symbols = {part for entry in ENTRIES.values() for part in entry.column.symbol.split(", ") if part}
    assert symbols == {"AMU", "PCU", "AL", "TT", "IT", "ST", "AEC", "MCR"}


def test_the_mean_over_time_weighs_by_time_not_by_samples():
    bunched = Series(name="", unit="w", at_s=(0.0, 0.1, 0.2, 10.2), values=(100.0, 100.0, 100.0, 300.0))
    assert time_mean(bunched) == pytest.approx((0.2 * 100 + 10 * 200) / 10.2)


def test_memory_on_a_cpu_is_net_of_what_was_held_before_the_model():
    held = Series(name="", unit="bytes", at_s=(0.0, 1.0), values=(700.0, 700.0))
    measurement = example_measurement(process_memory_bytes=held)
    window = measurement.windows[0]
    assert "not recorded" in value("memory_mean", measurement, window).reason
    net = replace(measurement, figures={"memory_baseline_bytes": 300.0})
    assert value("memory_mean", net, window) == 400.0
    assert value("memory_peak", net, window) == 400.0
    swapped = replace(measurement, figures={"memory_baseline_bytes": 800.0})
    assert "swapped" in value("memory_mean", swapped, window).reason


def test_utilisation_needs_a_calibration_of_the_number_format():
    ceilings = Ceilings(matmul_peak_flop_per_s={"bfloat16": 1e12})
    measurement = replace(example_measurement(), ceilings=ceilings)
    assert value("mfu", measurement, measurement.windows[0]).reason == "the calibration has no matrix peak for float32"


def test_a_slower_technique_at_fewer_watts_costs_more_joules():
    quick = example_measurement(step_s=(1.0,), figures={"energy_j": 650.0})
    slow = example_measurement(step_s=(4.6,), figures={"energy_j": 600.0 * 4.6})
    power = [value("power_mean", m, m.windows[0]) for m in (quick, slow)]
    energy = [value("energy_per_step", m, m.windows[0]) for m in (quick, slow)]
    assert power[0] > power[1] and energy[0] < energy[1]


def test_energy_that_no_meter_told_is_absent_with_the_meters_reason():
    measurement = replace(example_measurement(), absent={"energy_j": "no counter here"})
    window = measurement.windows[0]
    for key in ("energy_per_token", "energy_per_step", "energy_per_sample", "energy_net_per_token"):
        assert value(key, measurement, window) == Absent("no counter here")
    own = replace(window, absent={"energy_j": "this window was too short"})
    assert value("energy_per_token", measurement, own) == Absent("this window was too short")


def test_a_mean_is_moved_by_a_slow_step_and_the_median_is_not():
    measurement = example_measurement(step_s=(1.0,) * 9 + (11.0,))
    window = measurement.windows[0]
    assert (value("latency_median", measurement, window), value("latency_mean", measurement, window)) == (1.0, 2.0)


def test_random_weights_have_no_quality_and_no_compression():
    reason = "random weights: there is no quality to judge"
    judged = replace(USED.find("quality"), figures={}, absent={"heldout_bits_per_byte": reason})
    decode = USED.find("decode")
    bare = replace(USED, windows=(decode, judged))
    assert value("bits_per_byte", bare, decode) == Absent(reason)
    assert value("compression_resident", bare, decode, STUDY[4]) == Absent(reason)
    assert value("compression_resident", STUDY[4], decode, bare) == Absent(f"baseline: {reason}")


def test_compression_of_the_baseline_is_one_and_needs_no_window_of_quality():
    decode = STUDY[4].find("decode")
    assert value("compression_resident", STUDY[4], decode, STUDY[4]) == 1.0
    assert "no baseline" in value("compression_resident", USED, USED.find("decode")).reason


def test_bandwidth_of_a_cached_working_set_is_absent():
    trial = example_trial(InferenceSettings(), stage="inference")
    work = Work(moved_bytes=1e6, working_set_bytes=1e6)
    measurement = replace(USED, trial=trial, windows=(replace(USED.find("decode"), work=work),))
    assert value("mbu", measurement, measurement.windows[0]).reason.startswith("cache_resident")


def test_the_flat_list_holds_figures_only_and_none_of_a_window_that_failed():
    figures = all_metrics(USED, USED.find("decode"))
    assert figures["tokens_per_s"] == pytest.approx(1 / figures["latency_mean"])
    assert "compression_resident" not in figures
    assert all(isinstance(figure, float) for figure in figures.values())
    assert all_metrics(USED, replace(USED.find("decode"), outcome="oom")) == {}
