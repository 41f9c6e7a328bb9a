"""The crossing of a ratio over batch: known answers, no crossing, noise, and how often the interval holds the truth."""

import math
import random

import pytest

from efficientllm.stats.crossover import crossover

BATCHES = (1, 4, 16, 64, 256)


def ratios(slope, at, *, noise=0.0, rounds=3, seed=0):
    """Log ratio straight in log2 of the batch, zero at `at`."""
    rng = random.Random(seed)
    return {
        batch: {n: math.exp(slope * math.log2(batch / at) + rng.gauss(0, noise)) for n in range(rounds)}
        for batch in BATCHES
    }


@pytest.mark.parametrize("slope", [0.05, 0.3, 2.0])
def test_without_noise_the_crossing_is_where_it_is(slope):
    found = crossover(ratios(slope, 21.0))
    assert (found.kind, found.between, found.helps) == ("stops", (16, 64), (1, 4, 16))
    assert found.batch == pytest.approx(21.0)
    assert found.low <= 21.0 * 1.01 and found.high >= 21.0 / 1.01
    assert found.high / found.low < 1.02


def test_a_technique_that_helps_only_large_batches_starts_to():
    found = crossover(ratios(-0.3, 21.0))
    assert (found.kind, found.helps) == ("starts", (64, 256))
    assert found.batch == pytest.approx(21.0)


@pytest.mark.parametrize(("at", "kind", "helps"), [(1000.0, "always", BATCHES), (0.5, "never", ())])
def test_where_nothing_crosses_there_is_no_batch(at, kind, helps):
    found = crossover(ratios(0.3, at, noise=0.01))
    assert (found.kind, found.helps, found.batch, found.unsure) == (kind, helps, None, ())


def test_a_batch_that_noise_leaves_open_is_named():
    found = crossover({1: {0: 0.5, 1: 0.51, 2: 0.49}, 8: {0: 0.9, 1: 1.05, 2: 0.98}})
    assert (found.kind, found.unsure) == ("always", (8,))


def test_an_interval_that_leaves_the_measured_batches_has_no_end_there():
    found = crossover({1: {0: 0.5, 1: 0.51, 2: 0.49}, 8: {0: 0.9, 1: 1.25, 2: 1.0}})
    assert found.kind == "stops"
    assert 1 < found.low < found.batch
    assert found.high is None


def test_two_rounds_give_an_estimate_and_no_interval():
    found = crossover(ratios(0.3, 21.0, noise=0.01, rounds=2))
    assert found.batch == pytest.approx(21.0, rel=0.1)
    assert (found.low, found.high, found.unsure, found.n) == (None, None, (), 2)


def test_sides_that_change_twice_are_no_single_crossing():
    found = crossover({1: {0: 0.5}, 8: {0: 1.5}, 64: {0: 0.5}})
    assert (found.kind, found.helps, found.batch) == ("mixed", (1, 64), None)


def test_what_cannot_be_compared_gives_nothing():
    assert crossover({1: {0: 0.5}}) is None
    assert crossover({1: {0: 0.5}, 8: {1: 0.5}}) is None
    with pytest.raises(ValueError, match="no logarithm"):
        crossover({1: {0: 0.0}, 8: {0: 1.0}})


@pytest.mark.parametrize("noise", [0.01, 0.1])
def test_the_interval_holds_the_truth_as_often_as_it_says(noise):
    """Over 400 studies of three rounds, 95 % wanted; 92 % is three standard errors below it."""
    held = 0
    for seed in range(400):
        found = crossover(ratios(0.2, 32.0, noise=noise, seed=seed))
        held += (found.low or 0.0) <= 32.0 <= (found.high or math.inf) if found.kind == "stops" else 1
    assert 0.92 <= held / 400 <= 0.98
