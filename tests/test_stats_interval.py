"""One figure over processes: the interval, the percentile, and why there is none."""

from __future__ import annotations

import math

import pytest
from scipy import stats as reference

from efficientllm.stats.interval import mean_and_spread, process_interval
from efficientllm.stats.percentile import percentile, samples_needed
from efficientllm.stats.power import items_needed, smallest_detectable_change, smallest_detectable_drop
from efficientllm.stats.proofs import coverage
from efficientllm.stats.simulate import Spread, Steps, study_values, window_errors
from efficientllm.stats.student import t_quantile, t_upper_tail


def test_the_interval_is_students_t_on_the_logarithms():
    values = [1.0, 1.3, 0.9, 1.1]
    logs = [math.log(value) for value in values]
    low, high = reference.t.interval(0.95, 3, loc=reference.tmean(logs), scale=reference.sem(logs))
    found = process_interval(values)
    assert (found.low, found.high) == pytest.approx((math.exp(low), math.exp(high)))
    assert found.estimate == pytest.approx(reference.gmean(values))
    assert found.n == 4 and found.scale == "log" and not found.why_no_interval


def test_student_agrees_with_scipy_stats():
    for df in (1, 2, 9, 200):
        assert t_quantile(0.975, df) == pytest.approx(reference.t.ppf(0.975, df))
        assert t_upper_tail(2.5, df) == pytest.approx(reference.t.sf(2.5, df))


def test_two_processes_print_both_values_and_no_interval():
    found = process_interval([0.5, 0.52])
    assert found.low is None and found.high is None
    assert "0.5000" in found.why_no_interval and "0.5200" in found.why_no_interval
    assert "no interval" in found.why_no_interval


def test_one_process_and_none_say_so():
    assert process_interval([2.0]).estimate == 2.0
    assert process_interval([2.0]).why_no_interval == "only 1 process: no interval"
    assert process_interval([]).estimate is None
    assert process_interval([]).why_no_interval == "no process gave a value"


def test_values_that_have_no_logarithm_get_a_linear_interval_and_say_so():
    found = process_interval([-1.0, 0.0, 1.0, 2.0])
    low, high = reference.t.interval(0.95, 3, loc=0.5, scale=reference.sem([-1, 0, 1, 2]))
    assert found.scale == "linear"
    assert (found.estimate, found.low, found.high) == pytest.approx((0.5, low, high))


def test_identical_values_get_no_interval_of_zero_width():
    found = process_interval([3e9] * 5)
    assert found.estimate == pytest.approx(3e9) and found.low is None
    assert "all 5 processes gave the same value" in found.why_no_interval


def test_a_spread_of_rounding_alone_is_no_spread():
    assert mean_and_spread([0.1 + 0.2, 0.3, 0.3])[1] == 0.0
    assert mean_and_spread([0.3, 0.3, 0.3 + 1e-9])[1] > 0.0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_value_that_is_no_number_is_not_swallowed(bad):
    with pytest.raises(ValueError, match="leave it out"):
        process_interval([1.0, bad, 1.0])


@pytest.mark.parametrize("processes", [3, 5])
def test_intervals_cover_the_truth_in_about_95_percent_of_simulated_studies(processes):
    errors, _ = window_errors(Steps(mean_s=0.4), 500)
    studies = study_values(errors, Spread(), num_studies=600, num_techniques=1, num_rounds=processes)[:, 0]
    assert 0.925 <= coverage(studies) <= 0.975


def test_a_percentile_needs_ten_samples_beyond_it():
    values = [float(value) for value in range(1000)]
    assert percentile(values, 99).value == pytest.approx(989.01)
    assert percentile(values[:999], 99) == percentile(values[:999], 99)
    assert percentile(values[:999], 99).absent == "p99 needs 1000 samples, there are 999"
    assert percentile(values[:200], 95).value is not None
    assert percentile(values[:199], 95).value is None
    assert percentile(values[:1], 50).value == 0.0
    assert percentile([], 50).absent == "p50 needs 1 samples, there are 0"


def test_a_low_percentile_needs_as_many_samples_as_its_mirror():
    assert samples_needed(1) == samples_needed(99) == 1000
    with pytest.raises(ValueError, match="between 0 and 100"):
        samples_needed(100)


def test_items_needed_and_smallest_drop_are_each_others_inverse():
    for accuracy in (0.35, 0.6, 0.9):
        for disagreement in (None, 0.2):
            items = items_needed(accuracy, 0.05, disagreement=disagreement)
            drop = smallest_detectable_drop(accuracy, items, disagreement=disagreement)
            assert drop == pytest.approx(0.05, rel=0.01)


def test_more_items_tell_a_smaller_drop_and_few_tell_none():
    drops = [smallest_detectable_drop(0.5, items) for items in (50, 200, 1000, 10000)]
    assert drops == sorted(drops, reverse=True)
    assert smallest_detectable_drop(0.25, 5) is None
    assert smallest_detectable_drop(0.0, 1000) is None


@pytest.mark.parametrize(("accuracy", "drop", "disagreement"), [(0.5, 0.6, None), (0.5, 0.1, 0.05), (1.5, 0.1, None)])
def test_an_impossible_drop_is_refused(accuracy, drop, disagreement):
    with pytest.raises(ValueError, match=r"drop|accuracy"):
        items_needed(accuracy, drop, disagreement=disagreement)


def test_the_smallest_detectable_change_has_the_power_it_says():
    for n in (2, 3, 10, 500):
        change = smallest_detectable_change(1.0, n)
        critical = reference.t.ppf(0.975, n - 1)
        assert reference.nct.sf(critical, n - 1, change * n**0.5) == pytest.approx(0.8, abs=1e-3)
    assert smallest_detectable_change(1.0, 1) is None


def test_the_drop_that_items_can_tell_is_told_in_four_of_five_simulated_runs():
    import numpy as np

    rng = np.random.default_rng(3)
    items, runs = 800, 2000
    drop = smallest_detectable_drop(0.6, items)
    base, other = rng.random((runs, items)) < 0.6, rng.random((runs, items)) < 0.6 - drop
    lost, won = (base & ~other).sum(axis=1), (~base & other).sum(axis=1)
    told = (lost - won) / np.sqrt(lost + won) > 1.96
    assert 0.77 <= told.mean() <= 0.83
