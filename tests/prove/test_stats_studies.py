"""The statistics hold what they promise, on thousands of simulated studies with known truth.

Every study contains what a real one does: correlated steps with pauses, windows ended by the stopping rule, processes
and rounds that vary. The nominal rates are 95 % and 5 %; 2,000 studies tell them to half a percent.
"""

from __future__ import annotations

from functools import cache

import pytest

from efficientllm.stats.power import smallest_detectable_change
from efficientllm.stats.proofs import by_peeking, by_sequential, by_verdicts, coverage, share_saying
from efficientllm.stats.simulate import Spread, Steps, study_values, window_errors

STUDIES = 2000
MARGIN = 0.02
STEPS = {
    "mild": Steps(),
    "long memory": Steps(noise=0.08, correlation=0.9),
    "few slow steps": Steps(mean_s=0.4, noise=0.1),
}


@cache
def errors(name):
    return window_errors(STEPS[name], 12_000)[0]


def values(name, spread, techniques, rounds, studies=STUDIES):
    return study_values(
        errors(name), spread, num_studies=studies, num_techniques=techniques, num_rounds=rounds, seed=rounds
    )


@pytest.mark.prove
@pytest.mark.parametrize("rounds", [3, 5, 10])
@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("process", [0.002, 0.01, 0.05])
def test_nominal_95_percent_intervals_cover_in_93_to_97_percent_of_studies(name, rounds, process):
    studies = values(name, Spread(process=process, round=0.0), 1, rounds)[:, 0]
    assert 0.93 <= coverage(studies) <= 0.97


@pytest.mark.prove
@pytest.mark.parametrize("rounds", [3, 5, 10])
@pytest.mark.parametrize("name", STEPS)
def test_a_table_of_eight_equal_techniques_says_a_false_better_in_at_most_5_percent(name, rounds):
    studies = values(name, Spread(), 8, rounds)
    assert share_saying(studies, "better", by_verdicts(MARGIN)) <= 0.05
    assert share_saying(studies, "worse", by_verdicts(MARGIN)) <= 0.05


@pytest.mark.prove
@pytest.mark.parametrize("shape", ["heavy", "skewed", "two modes"])
def test_process_effects_that_are_not_normal_make_no_more_false_verdicts(shape):
    studies = values("mild", Spread(process=0.03, shape=shape), 8, 5)
    assert share_saying(studies, "better", by_verdicts(MARGIN)) <= 0.05


@pytest.mark.prove
@pytest.mark.parametrize("techniques", [2, 8])
@pytest.mark.parametrize("rounds", [3, 5, 10])
@pytest.mark.parametrize("ratio", [1 + MARGIN, 1 / (1 + MARGIN)])
def test_equivalent_is_said_of_techniques_exactly_at_the_margin_in_at_most_5_percent(techniques, rounds, ratio):
    quiet = study_values(
        errors("mild") * 0.1,  # so quiet that power is no protection
        Spread(process=0.001, round=0.02),
        num_studies=STUDIES,
        num_techniques=techniques,
        num_rounds=rounds,
    )
    assert share_saying(quiet, "equivalent", by_verdicts(MARGIN), ratio=ratio) <= 0.05


@pytest.mark.prove
def test_looking_after_every_round_errs_with_the_one_look_rule_and_not_with_the_sequential_one():
    studies = values("mild", Spread(), 4, 20)
    assert share_saying(studies, "better", by_sequential(MARGIN)) <= 0.05
    assert share_saying(studies, "equivalent", by_sequential(MARGIN), ratio=1 + MARGIN) <= 0.05
    assert share_saying(studies[:500], "better", by_peeking(0.0)) > 0.08


@pytest.mark.prove
@pytest.mark.parametrize("rounds", [3, 5, 10])
def test_the_smallest_detectable_change_is_detected_in_four_of_five_studies(rounds):
    studies = study_values(
        errors("mild") * 0.0, Spread(process=0.01), num_studies=STUDIES, num_techniques=2, num_rounds=rounds
    )
    change = smallest_detectable_change(0.01 * 2**0.5, rounds)
    found = share_saying(studies, "worse", by_verdicts(0.0), ratio=1 + change)
    assert 0.76 <= found <= 0.84
