"""Draws of a table: what they say of the front and of scores is right as often as it says, where the truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from efficientllm.stats.best import probability_best
from efficientllm.stats.front import probability_front
from efficientllm.stats.joint import joint
from efficientllm.stats.score import scores

BETTER = {"time": "low", "bits": "low"}


def study(rng, truth_MR, noise=0.02, rounds=4):
    """Measure a table of known logarithms: rounds that all rows share, and noise of each cell."""
    shared = 0.05 * rng.standard_normal((len(truth_MR), 1, rounds))
    logs = truth_MR[:, :, None] + shared + noise * rng.standard_normal((*truth_MR.shape, rounds))
    return {
        metric: {f"r{i}": dict(enumerate(np.exp(row).tolist())) for i, row in enumerate(rows)}
        for metric, rows in zip(BETTER, logs, strict=True)
    }


def truly_on_front(truth_MR):
    below = (truth_MR[:, None, :] <= truth_MR[:, :, None]).all(axis=0) & (
        truth_MR[:, None, :] < truth_MR[:, :, None]
    ).any(axis=0)
    return ~below.any(axis=1)


def test_of_rows_said_to_be_on_the_front_with_70_percent_about_70_percent_are():
    rng = np.random.default_rng(1)
    said, true = [], []
    for number in range(400):
        truth = 0.03 * rng.standard_normal((2, 5))
        shares = probability_front(joint(study(rng, truth), draws=800, seed=number % 4), BETTER)
        said += shares.values()
        true += truly_on_front(truth).tolist()
    said, true = np.array(said), np.array(true)
    for low, high in ((0.0, 0.2), (0.2, 0.4), (0.4, 0.6), (0.6, 0.8), (0.8, 1.01)):
        inside = (said >= low) & (said < high)
        error = 3 * 0.5 / inside.sum() ** 0.5
        assert abs(true[inside].mean() - said[inside].mean()) < 0.05 + error, (low, high)
    assert true[said > 0.95].mean() > 0.93
    assert true[said < 0.05].mean() < 0.07


def test_of_scores_intervals_at_least_nine_in_ten_hold_the_true_score():
    rng = np.random.default_rng(2)
    held = []
    for number in range(200):
        truth = np.array([[0.0, 0.3, 0.5, 0.9], [0.4, 0.1, 0.0, 0.7]]) + 0.05 * rng.standard_normal((2, 4))
        table = study(rng, truth)
        estimates = {m: {r: float(np.exp(np.log(list(v.values())).mean())) for r, v in rows.items()}
                     for m, rows in table.items()}  # fmt: skip
        weights = {"time": 1.0, "bits": 2.0}
        found = scores(estimates, BETTER, weights, joint(table, draws=800, seed=number % 4))
        exact = {
            m: {f"r{i}": float(np.exp(v)) for i, v in enumerate(row)} for m, row in zip(BETTER, truth, strict=True)
        }
        true = scores(exact, BETTER, weights)
        # the row that is worst in all has 0.1 in every draw: no coverage to speak of
        held += [found[r].low <= true[r].value <= found[r].high for r in found if 0.11 < true[r].value < 0.99]
    assert 0.90 <= np.mean(held) <= 0.99


def test_equal_rows_are_seldom_ranked_apart_by_score():
    rng = np.random.default_rng(3)
    parted = 0
    for number in range(200):
        table = study(rng, np.zeros((2, 4)))
        estimates = {m: {r: v[0] for r, v in rows.items()} for m, rows in table.items()}
        found = scores(estimates, BETTER, dict.fromkeys(BETTER, 1.0), joint(table, draws=800, seed=number % 4))
        parted += any(score.rank != 1 for score in found.values())
    assert parted <= 0.08 * 200


def test_rows_far_apart_are_ranked_by_score_one_after_the_other():
    table = study(np.random.default_rng(6), np.array([[0.0, 0.3, 0.9], [0.0, 0.3, 0.9]]))
    estimates = {m: {r: v[0] for r, v in rows.items()} for m, rows in table.items()}
    found = scores(estimates, BETTER, dict.fromkeys(BETTER, 1.0), joint(table))
    assert [(one.rank, one.tied) for one in found.values()] == [(1, False), (2, False), (3, False)]


def test_draws_of_one_metric_are_those_of_the_probability_of_being_best():
    rng = np.random.default_rng(4)
    rows = study(rng, np.array([[0.0, 0.01, 0.02], [0.0, 0.0, 0.0]]))["time"]
    drawn = joint({"time": rows}, draws=50_000)
    share = np.bincount(drawn.values[0].argmin(axis=1), minlength=3) / 50_000
    assert share == pytest.approx(list(probability_best(rows, "low", draws=50_000).probability.values()), abs=1e-12)


def test_a_rate_and_its_time_are_drawn_as_one():
    rng = np.random.default_rng(5)
    rows = study(rng, np.zeros((2, 3)))["time"]
    rates = {name: {r: 7.0 / value for r, value in values.items()} for name, values in rows.items()}
    drawn = joint({"time": rows, "rate": rates})
    product = drawn.values[0] * drawn.values[1]
    assert product == pytest.approx(np.full_like(product, 7.0), rel=1e-6)
    both = probability_front(drawn, {"time": "low", "rate": "high"})
    assert sum(both.values()) == pytest.approx(1.0)  # the front of one metric said twice is its best row


def test_what_does_not_vary_is_not_drawn_and_ties_are_on_the_front_together():
    exact = {"a": dict.fromkeys(range(3), 4.0), "b": dict.fromkeys(range(3), 4.0), "c": dict.fromkeys(range(3), 5.0)}
    found = probability_front(joint({"time": exact, "bits": exact}), BETTER)
    assert found == {"a": 1.0, "b": 1.0, "c": 0.0}


def test_values_at_or_below_zero_are_drawn_as_they_are():
    rows = {"a": {0: -1.0, 1: -1.1, 2: -0.9}, "b": {0: 1.0, 1: 1.1, 2: 0.9}}
    drawn = joint({"gain": rows})
    assert drawn.values[0].mean(axis=0) == pytest.approx([-1.0, 1.0], abs=0.1)


def test_draws_need_three_rounds_that_all_metrics_have():
    assert joint({"t": {"a": {0: 1.0, 1: 1.0}, "b": {0: 1.0, 1: 1.0}}}) == "2 rounds that all rows have: 3 are needed"
    assert joint({"t": {"a": {0: 1.0}}}) == "fewer than two rows"
    assert joint({}) == "fewer than two rows"


def test_a_score_is_the_weighted_harmonic_mean_of_the_scaled_parts():
    found = scores(
        {"time": {"a": 1.0, "b": 3.0, "c": 2.0}, "rate": {"a": 10.0, "b": 30.0, "c": 10.0}},
        {"time": "low", "rate": "high"},
        {"time": 2.0, "rate": 1.0},
    )
    assert found["c"].parts == pytest.approx({"time": 0.55, "rate": 0.1})
    assert found["c"].value == pytest.approx(3 / (2 / 0.55 + 1 / 0.1))
    assert (found["a"].low, found["a"].first, found["a"].rank) == (None, None, None)
