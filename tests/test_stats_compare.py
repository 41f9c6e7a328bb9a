"""Comparisons paired by round: verdicts, ranks, limits, the best, and deciding while looking."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as reference

from efficientllm.stats.best import probability_best
from efficientllm.stats.compare import equivalence, non_inferiority, paired, ranks, verdicts
from efficientllm.stats.holm import holm
from efficientllm.stats.pairs import compared_pairs
from efficientllm.stats.proofs import by_peeking, by_sequential, by_verdicts, share_saying
from efficientllm.stats.sequential import confidence_sequence, decide, rounds_needed, spent
from efficientllm.stats.simulate import Spread, Steps, study_values, window_errors


def row(*values):
    return dict(enumerate(values))


def noisy(center, *, noise=0.01, rounds=5, seed=0):
    rng = np.random.default_rng(seed)
    return row(*(center * np.exp(noise * rng.standard_normal(rounds))).tolist())


@pytest.fixture(scope="module")
def equal_tables():
    errors, _ = window_errors(Steps(mean_s=0.4), 500)
    return study_values(errors, Spread(), num_studies=300, num_techniques=8, num_rounds=5)


def test_a_comparison_is_the_paired_t_test_on_logarithms():
    a, b = row(1.0, 1.2, 0.9, 1.1), row(1.1, 1.5, 1.0, 1.15)
    found = paired(a, b, "low")
    expected = reference.ttest_rel(np.log(list(a.values())), np.log(list(b.values())))
    interval = expected.confidence_interval(0.95)
    assert found.p_value == pytest.approx(expected.pvalue)
    assert (found.low, found.high) == pytest.approx((math.exp(interval.low), math.exp(interval.high)))
    assert found.improves and found.n == 4


def test_only_common_rounds_are_compared():
    found = paired({0: 1.0, 1: 1.1, 2: 0.9, 7: 50.0}, {0: 2.0, 1: 2.3, 2: 1.9, 5: 0.1}, "low")
    assert found.n == 3
    assert found.ratio == pytest.approx(math.exp(np.mean(np.log([1 / 2, 1.1 / 2.3, 0.9 / 1.9]))))


def test_what_rounds_share_cancels():
    drift = [1.0, 3.0, 0.5, 2.0]
    a = row(*(d * v for d, v in zip(drift, [1.00, 1.01, 1.00, 0.99], strict=True)))
    assert paired(a, row(*(1.5 * d for d in drift)), "low").p_value < 1e-4


@pytest.mark.parametrize("rounds", [0, 1, 2])
def test_below_three_common_rounds_nothing_is_tested_and_the_reason_is_said(rounds):
    a, b = row(*[1.0, 1.1][:rounds]), row(*[5.0, 5.2][:rounds])
    found = paired(a, b, "low")
    assert found.p_value is None and found.low is None and "in common" in found.reason
    assert equivalence(found, 0.5) is None
    assert verdicts({"a": a, "b": b}, "b", "low", 0.02)["a"].word == "unresolved"
    assert ranks({"a": a, "b": b}, "low")["a"].rank is None


def test_an_exact_difference_is_certain_and_says_that_it_is_exact():
    found = paired(row(100.0, 100.0, 100.0), row(400.0, 400.0, 400.0), "low")
    assert (found.p_value, found.low, found.ratio) == (0.0, None, pytest.approx(0.25))
    assert found.reason == "the same in all 3 rounds: exact at its resolution"
    assert paired(row(4.0, 4.0, 4.0), row(4.0, 4.0, 4.0), "low").p_value == 1.0


def test_values_rounded_coarsely_do_not_pass_for_exact():
    a, b = row(0.51, 0.51, 0.51), row(0.50, 0.50, 0.50)
    assert paired(a, b, "high").p_value == 0.0
    assert paired(a, b, "high", resolution=0.01).p_value > 0.04
    assert verdicts({"a": a, "b": b, "c": b}, "b", "high", 0.0, resolution=0.01)["a"].word == "unresolved"


def test_rounding_makes_false_verdicts_unless_the_resolution_is_told():
    rng = np.random.default_rng(0)
    tables = 0.01 * np.round(50 + 0.5 * rng.standard_normal((400, 8, 3)) + rng.random((400, 1, 1)))

    def false_words(resolution):
        said = 0
        for table in tables:
            rows = {str(name): row(*values) for name, values in enumerate(table.tolist())}
            words = {v.word for v in verdicts(rows, "0", "high", 0.0, resolution=resolution).values()}
            said += bool(words & {"better", "worse"})
        return said / len(tables)

    assert false_words(0.0) > 0.10
    assert false_words(0.01) <= 0.05


def test_values_without_a_logarithm_are_compared_by_their_differences():
    a, b = row(-1.0, 0.5, 0.2, -0.3), row(4.0, 6.1, 5.2, 4.9)
    found = paired(a, b, "low")
    expected = reference.ttest_rel(list(a.values()), list(b.values()))
    assert found.scale == "linear" and found.ratio is None and found.low is None
    assert found.p_value == pytest.approx(expected.pvalue) and found.improves


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_value_that_is_no_number_is_refused(bad):
    with pytest.raises(ValueError, match="leave it out"):
        paired(row(1.0, bad, 1.0), row(1.0, 1.0, 1.0), "low")


def test_a_direction_that_is_no_word_of_ours_is_refused():
    with pytest.raises(ValueError, match="'low' or 'high'"):
        paired(row(1.0), row(1.0), "lower")


def test_equivalence_is_two_one_sided_tests():
    a, b = noisy(1.005, seed=1), noisy(1.0, seed=2)
    found = paired(a, b, "low")
    logs = np.log(list(a.values())) - np.log(list(b.values()))
    bound = math.log(1.03)
    below = reference.ttest_1samp(logs, bound, alternative="less").pvalue
    above = reference.ttest_1samp(logs, -bound, alternative="greater").pvalue
    assert equivalence(found, 0.03) == pytest.approx(max(below, above))


def test_equivalent_means_that_the_shown_interval_lies_within_the_margin():
    for seed in range(40):
        a, b = noisy(1.004, noise=0.006, seed=seed), noisy(1.0, noise=0.006, seed=1000 + seed)
        verdict = verdicts({"a": a, "b": b}, "b", "low", 0.02)["a"]
        inside = verdict.comparison.low > 1 / 1.02 and verdict.comparison.high < 1.02
        assert (verdict.word == "equivalent") == inside


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_is_between_no_correction_and_bonferroni_and_keeps_the_order(p_values):
    corrected = holm(dict(enumerate(p_values)))
    for key, p in enumerate(p_values):
        assert p <= corrected[key] <= min(1.0, p * len(p_values))
    ordered = sorted(range(len(p_values)), key=lambda key: p_values[key])
    assert [corrected[key] for key in ordered] == sorted(corrected.values())


def test_the_four_verdicts():
    rows = {
        "base": noisy(1.0, seed=1),
        "fast": noisy(0.7, seed=2),
        "slow": noisy(1.4, seed=3),
        "same": {r: v * (1 + 0.001 * (r % 2)) for r, v in noisy(1.0, seed=1).items()},
        "noisy": noisy(1.1, noise=0.5, seed=5),
        "lost": {},
    }
    words = {name: verdict.word for name, verdict in verdicts(rows, "base", "low", 0.02).items()}
    assert words == {
        "fast": "better",
        "slow": "worse",
        "same": "equivalent",
        "noisy": "unresolved",
        "lost": "unresolved",
    }
    mirrored = {name: verdict.word for name, verdict in verdicts(rows, "base", "high", 0.02).items()}
    assert mirrored["fast"] == "worse" and mirrored["slow"] == "better"


def test_more_rows_make_each_verdict_harder_to_get():
    rows = {"base": noisy(1.0, noise=0.02, seed=1), "a": noisy(0.975, noise=0.005, seed=2)}
    alone = verdicts(rows, "base", "low", 0.0)["a"]
    crowd = {f"equal {seed}": noisy(1.0, noise=0.02, seed=seed) for seed in range(10, 30)}
    among = verdicts({**rows, **crowd}, "base", "low", 0.0)["a"]
    assert alone.word == "better" and among.word == "unresolved"
    assert among.comparison == alone.comparison
    assert among.p_value > alone.p_value


def test_a_table_without_its_baseline_gets_no_verdicts():
    assert verdicts({"a": noisy(1.0)}, "base", "low", 0.02) == {}


def test_a_rank_counts_the_rows_significantly_better_and_ties_need_not_be_transitive():
    rows = {
        "a": noisy(1.00, noise=0.005, seed=1),
        "c": noisy(1.20, noise=0.005, seed=2),
        "b": noisy(1.10, noise=0.15, seed=3),
        "out of memory": {},
    }
    found = ranks(rows, "low")
    assert {name: rank.rank for name, rank in found.items()} == {"a": 1, "b": 1, "c": 2, "out of memory": None}
    assert found["c"].beaten_by == ("a",) and not found["c"].tied
    assert found["a"].tied and found["b"].tied


def test_ranks_are_corrected_for_all_pairs():
    rows = {"a": noisy(1.0, noise=0.02, seed=1), "b": noisy(0.975, noise=0.005, seed=2)}
    crowd = {f"equal {seed}": noisy(1.0, noise=0.02, seed=seed) for seed in range(10, 16)}
    assert ranks(rows, "low")["a"].rank == 2
    assert ranks({**rows, **crowd}, "low")["a"].rank == 1


def test_ranks_do_not_call_better_what_the_margin_calls_equivalent():
    rows = {"a": row(1.000, 1.0001, 1.0), "b": row(1.001, 1.0012, 1.001)}
    assert ranks(rows, "low")["b"].rank == 2
    assert ranks(rows, "low", margin=0.02)["b"].rank == 1


@pytest.mark.parametrize(
    ("factor", "verdict"), [(0.99, "holds"), (0.97, "cannot tell"), (0.90, "fails"), (1.10, "holds")]
)
def test_a_limit_on_a_drop_holds_fails_or_cannot_be_told(factor, verdict):
    base = noisy(0.6, noise=0.05, seed=1)
    wobble = noisy(1.0, noise=0.004, seed=2)
    candidate = {r: v * factor * wobble[r] for r, v in base.items()}
    assert non_inferiority(candidate, base, "high", 0.03).verdict == verdict


def test_a_limit_on_a_drop_is_a_share_of_the_whole():
    base = noisy(0.6, seed=1)
    wobble = noisy(1.0, noise=0.004, seed=2)
    almost_half = {r: v * 0.52 * wobble[r] for r, v in base.items()}
    assert non_inferiority(almost_half, base, "high", 0.5).verdict == "holds"
    assert non_inferiority(almost_half, base, "high", 0.45).verdict == "fails"


def test_a_limit_where_low_is_better_is_the_mirror():
    base = noisy(2.0, seed=1)
    found = non_inferiority({r: v * (1.01 + 0.001 * r) for r, v in base.items()}, base, "low", 0.03)
    assert found.verdict == "holds" and 1.01 < found.bound < 1.03
    assert non_inferiority({r: v * (1.05 + 0.001 * r) for r, v in base.items()}, base, "low", 0.03).verdict == "fails"


def test_an_absolute_limit_is_a_comparison_with_a_constant():
    used = row(7.8e9, 7.9e9, 7.85e9)
    assert non_inferiority(used, dict.fromkeys(used, 8.2e9), "low", 0.0).verdict == "holds"
    assert non_inferiority(used, dict.fromkeys(used, 7.86e9), "low", 0.0).verdict == "cannot tell"
    assert non_inferiority(row(8e9, 8e9, 8e9), dict.fromkeys(used, 8e9), "low", 0.0).verdict == "holds"
    assert non_inferiority({}, {}, "low", 0.0).verdict == "cannot tell"


def test_the_probability_of_the_better_of_two_is_the_one_sided_p_value():
    rows = {"a": noisy(1.0, noise=0.03, seed=1), "b": noisy(1.03, noise=0.03, seed=2)}
    found = probability_best(rows, "low", draws=200_000)
    assert found.probability["b"] == pytest.approx(paired(rows["a"], rows["b"], "low").p_value / 2, abs=0.003)
    assert sum(found.probability.values()) == pytest.approx(1.0)
    assert found == probability_best(rows, "low", draws=200_000)


def test_equal_rows_share_the_probability_of_being_best():
    exact = {"a": row(1.0, 1.0, 1.0), "b": row(1.0, 1.0, 1.0), "c": row(2.0, 2.0, 2.0)}
    assert probability_best(exact, "low").probability == {"a": 0.5, "b": 0.5, "c": 0.0}
    assert probability_best({"a": row(1.0, 1.0, 1.0)}, "low").reason == "fewer than two rows"
    assert probability_best({}, "low").reason == "fewer than two rows"


def test_a_table_of_equals_rarely_says_better_and_one_at_the_margin_rarely_equivalent(equal_tables):
    assert share_saying(equal_tables, "better", by_verdicts(0.02)) <= 0.05
    assert share_saying(equal_tables, "equivalent", by_verdicts(0.02), ratio=1.02) <= 0.05


def test_looking_after_every_round_needs_the_sequential_rule():
    errors, _ = window_errors(Steps(mean_s=0.4), 500)
    equal = study_values(errors, Spread(), num_studies=200, num_techniques=4, num_rounds=12)
    assert share_saying(equal, "better", by_peeking(0.0)) > 0.06
    assert share_saying(equal, "better", by_sequential(0.0)) <= 0.05


def test_all_that_is_ever_spent_is_alpha():
    assert sum(spent(look) for look in range(1, 100_000)) == pytest.approx(0.05, rel=1e-4)
    with pytest.raises(ValueError, match="looks count from 1"):
        spent(0)


def test_a_first_decision_stands_whatever_comes_later():
    base = dict.fromkeys(range(8), 1.0)
    a = row(0.500, 0.501, 0.499, 0.5, 3.0, 4.0, 5.0, 6.0)
    early = decide({"a": {r: a[r] for r in range(4)}, "base": base | {}}, "base", "low", 0.02)
    late = decide({"a": a, "base": base}, "base", "low", 0.02)
    assert early.verdicts["a"].word == late.verdicts["a"].word == "better"
    assert late.decided_at == {"a": 3} and late.open == () and late.rounds == 8


def test_an_undecided_study_asks_for_more_rounds_until_its_most():
    rows = {"a": noisy(1.0, noise=0.1, seed=1), "base": noisy(1.0, noise=0.1, seed=2)}
    found = decide(rows, "base", "low", 0.02)
    assert found.open == ("a",) and found.verdicts["a"].word == "unresolved"
    assert found.unfinished(max_rounds=6) and not found.unfinished(max_rounds=5)


@pytest.mark.parametrize("rounds", [0, 1, 2])
def test_a_study_of_fewer_than_three_rounds_is_open(rounds):
    rows = {"a": row(*[0.5] * rounds), "base": row(*[1.0] * rounds)}
    found = decide(rows, "base", "low", 0.02)
    assert found.open == ("a",) and found.rounds == rounds and found.unfinished(max_rounds=3)


def test_a_confidence_sequence_covers_at_all_rounds_at_once():
    rng = np.random.default_rng(5)
    missed = 0
    for logs in 0.03 * rng.standard_normal((300, 2, 12)):
        a, b = (row(*values) for values in np.exp(logs).tolist())
        intervals = [
            confidence_sequence({r: a[r] for r in range(n)}, {r: b[r] for r in range(n)}, "low") for n in range(3, 13)
        ]
        missed += any(not i.low <= 1.0 <= i.high for i in intervals)
    assert missed / 300 <= 0.05


def test_rounds_needed_falls_with_the_effect():
    needed = [rounds_needed(paired(noisy(c, seed=1), noisy(1.0, seed=2), "low")) for c in (0.99, 0.95, 0.8)]
    assert needed == sorted(needed, reverse=True) and needed[-1] == 3
    assert rounds_needed(paired(row(1.0, 1.0, 1.0), row(1.0, 1.0, 1.0), "low")) is None


@given(
    st.lists(
        st.lists(st.sampled_from([1.0, 1.01, 1.02, 1.5, 2.0, 3.7, 1e-9, 1e12]), min_size=4, max_size=4),
        min_size=3, max_size=6,
    ),
    st.integers(1, 4),
    st.sampled_from([0.0, 0.02, 0.5]),
    st.sampled_from(["low", "high"]),
)  # fmt: skip
def test_all_pairs_at_once_are_judged_as_one_by_one(table, rounds, margin, better):
    rows = {f"r{i}": dict(enumerate(values[:rounds])) for i, values in enumerate(table)}
    found = compared_pairs(rows, better, margin)
    for (one, other), told in found.items():
        alone = paired(rows[one], rows[other], better)
        assert told.p_value == (None if alone.p_value is None else pytest.approx(alone.p_value, rel=1e-6, abs=1e-12))
        p_same = equivalence(alone, margin)
        assert told.p_same == (None if p_same is None else pytest.approx(p_same, rel=1e-6, abs=1e-9))
        assert told.improves == alone.improves or abs(alone.shift) < 1e-12
