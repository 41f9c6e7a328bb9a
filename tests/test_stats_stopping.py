"""When warm-up is over and when a window has seen enough."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest

from efficientllm.stats import stopping
from efficientllm.stats.simulate import Steps, step_times, window_errors
from efficientllm.stats.steady import SteadyRule, is_steady
from efficientllm.stats.stopping import WindowRule, relative_half_width


def lasting(rule, steps):
    """Run a rule over an endless supply of steps; return how many it took."""
    taken = 0
    while rule.unfinished():
        rule.add(steps[taken % len(steps)])
        taken += 1
    return taken


def noise(num, *, correlation=0.0, spread=0.05, seed=0):
    steps = Steps(noise=spread, correlation=correlation, pause_share=0.0)
    return step_times(steps, 1, num, np.random.default_rng(seed))[0]


def test_the_half_width_is_that_of_the_median_for_independent_steps():
    width = np.mean([relative_half_width(noise(400, seed=seed)) for seed in range(40)])
    expected = 1.96 * 0.05 * math.sqrt(math.pi / 2 / 400)
    assert width == pytest.approx(expected, rel=0.15)


def test_correlated_steps_make_it_wider():
    independent = np.mean([relative_half_width(noise(400, seed=seed)) for seed in range(20)])
    correlated = np.mean([relative_half_width(noise(400, correlation=0.8, seed=seed)) for seed in range(20)])
    assert correlated > 1.8 * independent


@pytest.mark.parametrize(("correlation", "least"), [(0.0, 0.92), (0.6, 0.90)])
def test_the_interval_holds_the_true_median_about_as_often_as_it_says(correlation, least):
    held = 0
    for seed in range(300):
        steps = noise(150, correlation=correlation, seed=seed)
        median = float(np.median(steps))
        held += abs(math.log(median / 0.1)) <= relative_half_width(steps) * 1.05
    assert held / 300 >= least


def test_pauses_do_not_widen_the_interval_of_a_median():
    steps = noise(400)
    paused = steps.copy()
    paused[::40] *= 20
    assert relative_half_width(paused) < 1.3 * relative_half_width(steps)


def test_the_same_steps_give_the_same_answer():
    steps = noise(100)
    assert relative_half_width(steps) == relative_half_width(steps.tolist())


def test_identical_steps_have_no_width_and_few_have_no_end():
    assert relative_half_width([0.2] * 50) == 0.0
    assert relative_half_width([0.2] * (stopping.FEWEST_STEPS - 1)) == math.inf
    assert relative_half_width([0.0] * 50) == math.inf


def test_a_quiet_window_ends_at_its_least_time():
    assert lasting(WindowRule(min_s=5.0, max_s=30.0, target=0.02), [0.1]) == pytest.approx(50, abs=1)


def test_a_noisy_window_ends_at_its_longest_time():
    rule = WindowRule(min_s=1.0, max_s=10.0, target=0.0001)
    assert lasting(rule, noise(5000)) == pytest.approx(100, abs=5)
    assert rule.half_width > 0.0001


def test_a_window_between_ends_when_the_target_is_met():
    rule = WindowRule(min_s=0.5, max_s=1000.0, target=0.01)
    taken = lasting(rule, noise(9000, spread=0.1))
    assert rule.half_width <= 0.01 and 100 < taken < 5000


def test_steps_longer_than_the_window_still_make_one_step():
    assert lasting(WindowRule(min_s=5.0, max_s=30.0, target=0.02), [100.0]) == 1


def test_few_long_steps_run_to_the_longest_time():
    assert lasting(WindowRule(min_s=5.0, max_s=30.0, target=0.02), [6.0]) == 5


def test_steps_that_take_no_time_end(monkeypatch):
    monkeypatch.setattr(stopping, "MOST_STEPS", 500)
    assert lasting(WindowRule(min_s=5.0, max_s=30.0, target=0.02), [0.0]) == 500


def test_bounds_the_wrong_way_round_are_refused():
    with pytest.raises(ValueError, match="at least 9"):
        WindowRule(min_s=9.0, max_s=3.0, target=0.02)


def test_the_width_is_looked_at_on_a_growing_schedule(monkeypatch):
    looks = []
    monkeypatch.setattr(stopping, "relative_half_width", lambda steps, seed: looks.append(len(steps)) or 1.0)
    lasting(WindowRule(min_s=0.0, max_s=2.0, target=0.02), [0.0001])
    assert len(looks) < 100
    assert all(later >= earlier + earlier // 10 for earlier, later in pairwise(looks))


def test_windows_that_stopped_early_are_not_biased():
    errors, counts = window_errors(Steps(), 400)
    assert abs(errors.mean()) < 3 * errors.std() / 20
    assert counts.min() < 60 < counts.max()


def test_a_compiling_first_step_keeps_warm_up_going():
    assert lasting(SteadyRule(), [40.0, 0.1, 0.1, 0.1, 0.1]) == 4
    assert lasting(SteadyRule(), [40.0, 8.0, 0.1, 0.1, 0.1]) == 5


def test_warm_up_never_ends_before_three_steps():
    assert lasting(SteadyRule(min_steps=1, max_s=0.0), [100.0]) == 3
    assert lasting(SteadyRule(min_steps=6), [0.1]) == 6


def test_step_time_that_still_falls_or_rises_is_not_steady():
    assert not is_steady([0.97**i for i in range(40)])
    assert not is_steady([1.03**i for i in range(40)])


@pytest.mark.parametrize("spread", [0.02, 0.1, 0.3])
def test_noise_alone_does_not_keep_warm_up_going_for_long(spread):
    lengths = []
    for seed in range(100):
        rule = SteadyRule(max_s=math.inf)
        lengths.append(lasting(rule, noise(2000, spread=spread, seed=seed)))
        assert rule.steady
    assert np.percentile(lengths, 90) <= 20


def test_one_pause_does_not_hide_a_trend_nor_look_like_one():
    falling = np.geomspace(2.0, 1.0, 60)
    falling[45] *= 30
    assert not is_steady(falling)
    level = noise(60, spread=0.1)
    level[45] *= 30
    assert is_steady(level)


def test_warm_up_that_never_settles_ends_at_its_longest_time_and_says_so():
    rule = SteadyRule(max_s=5.0)
    steps = [1.0 / (1 + i) for i in range(1000)]
    lasting(rule, steps)
    assert not rule.steady
