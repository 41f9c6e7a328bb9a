"""Two sides compared: planted differences are found and no others, and what does not compare is refused by name."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from tests.two_sides import STUDY, compare, found, moved, of_commit, on_machine, planted, with_trial

from efficientllm.analysis.comparison_side import chosen, make_side
from efficientllm.analysis.comparison_table import Options, compare_sides
from efficientllm.errors import UnknownNameError, UserError
from efficientllm.records.choice import Choice
from efficientllm.records.window import Caution, Window
from efficientllm.stats.paired import paired
from efficientllm.stats.unpaired import unpaired

OLD = of_commit(STUDY, "a" * 40)
SLOW = {"stage": "pretrain", "technique": "mqa"}


def newer(**changes):
    """Return the study as the next commit measured it."""
    return of_commit(planted(**changes), "b" * 40)


def test_a_planted_regression_of_10_percent_breaks_a_limit_of_5_and_names_the_row():
    table = compare(OLD, newer(**SLOW, seconds=1.10), fail_over=0.05)
    slow = found(table, **SLOW, metric="latency_median")
    assert slow.limit == "fails" and slow.verdict == "worse" and slow.paired
    assert slow.low < 1.10 < slow.high
    assert {one.technique for one in table.differences if one.limit == "fails"} == {"mqa"}
    assert any("pretrain, mqa: Step" in text for text in table.regressions)


def test_a_planted_regression_of_3_percent_keeps_a_limit_of_5_and_is_still_told():
    table = compare(OLD, newer(**SLOW, seconds=1.03), fail_over=0.05)
    slow = found(table, **SLOW, metric="latency_median")
    assert slow.limit == "holds" and slow.verdict == "worse"
    assert not table.regressions


def test_an_uncertain_regression_beyond_the_limit_does_not_fail_and_is_said_to_be_uncertain():
    table = compare(OLD, newer(**SLOW, seconds=1.08, noise=0.06), fail_over=0.05)
    assert found(table, **SLOW, metric="latency_median").limit == "cannot tell"
    assert not table.regressions and "cannot be told" in table.verdict[0]


def test_an_estimate_beyond_the_limit_is_not_enough_however_few_figures_are_compared():
    few = {"metrics": ("latency_median",), "stages": ("pretrain",), "fail_over": 0.05}
    slow = found(compare(OLD, newer(**SLOW, seconds=1.08, noise=0.06), **few), technique="mqa")
    assert slow.ratio > 1.05 > slow.low and slow.limit == "cannot tell"


def test_the_limit_is_of_the_worse_side_alone_and_of_rates_downward():
    fast = compare(OLD, newer(**SLOW, seconds=0.8), fail_over=0.05)
    assert found(fast, **SLOW, metric="latency_median").limit == "holds" and not fast.regressions
    slow = compare(OLD, newer(**SLOW, seconds=1.10), metrics=("tokens_per_s",), fail_over=0.05)
    assert found(slow, **SLOW).limit == "fails" and found(slow, **SLOW).ratio < 0.95


def test_nothing_planted_nothing_found():
    table = compare(OLD, newer(), fail_over=0.05)
    assert {one.verdict for one in table.differences} <= {"equivalent", "unresolved"}
    assert not table.regressions and not table.ended and not table.unmatched


def test_p_values_are_corrected_for_every_figure_of_the_comparison():
    whole = compare(OLD, newer(**SLOW, seconds=1.10))
    alone = compare(OLD, newer(**SLOW, seconds=1.10), metrics=("latency_median",), stages=("pretrain",))
    wanted = {**SLOW, "metric": "latency_median"}
    least = found(alone, **wanted).p_value / len(alone.differences)
    assert found(whole, **wanted).p_value == pytest.approx(least * len(whole.differences), rel=1e-6)


@pytest.mark.parametrize("outcome", ["oom", "crashed", "invalid"])
def test_a_row_that_was_ok_and_no_longer_is_counts_as_a_regression(outcome):
    def ended(record):
        if record.trial.stage != "pretrain" or record.trial.technique() != "mla":
            return record
        if outcome == "invalid":
            return replace(record, invalid_codes=("above_peak",))
        return replace(record, outcome=outcome, reason="planted", windows=(), data=None)

    table = compare(OLD, [ended(record) for record in newer()], fail_over=0.05)
    gone = found(table, stage="pretrain", technique="mla", outcome_a="ok")
    assert gone.outcome_b == outcome and gone.regression
    assert any("pretrain mla" in text for text in table.regressions)


def test_a_window_that_runs_out_of_memory_and_a_single_repeat_that_crashes_count_too():
    def without_decode(record):
        windows = [
            Window(name=w.name, coordinates=w.coordinates, outcome="oom", reason="planted")
            if w.name == "decode" and w.coordinates["batch"] == 16
            else w
            for w in record.windows
        ]
        return replace(record, windows=tuple(windows))

    def crashed(record):
        return replace(record, outcome="crashed", reason="planted", windows=())

    new = [without_decode(r) if r.trial.technique() == "gqa" and r.trial.stage == "inference" else r for r in newer()]
    new = [
        crashed(r) if (r.trial.technique(), r.trial.stage, r.trial.repeat) == ("mha", "pretrain", 2) else r for r in new
    ]
    table = compare(OLD, new, fail_over=0.05)
    assert found(table, technique="gqa", outcome_b="oom").window == "decode batch=16 tokens=8192"
    assert found(table, technique="mha", outcome_a="ok").outcome_b == "crashed in 1 of 5 repeats"
    assert len(table.regressions) == 2


def test_a_row_that_is_not_measured_any_more_counts_as_a_regression_and_a_new_one_does_not():
    kept = [record for record in newer() if record.trial.technique() != "mla"]
    table = compare(OLD, kept, fail_over=0.05)
    assert {row for one in table.unmatched for row in one.rows} == {"pretrain mla", "inference mla"}
    assert len(table.regressions) == 1
    assert not compare(of_commit(kept, "a" * 40), newer(), fail_over=0.05).regressions


def test_rows_that_differ_in_a_setting_are_not_compared_and_the_setting_is_named():
    def longer(record):
        if (record.trial.stage, record.trial.technique()) != ("pretrain", "mqa"):
            return record
        return with_trial(record, settings=replace(record.trial.settings, tokens=999))

    table = compare(OLD, [longer(record) for record in newer()])
    assert {one.technique for one in table.differences} == {"mha", "gqa", "mla"}
    told = {
        (one.side, row, key): values
        for one in table.unmatched
        for row in one.rows
        for key, values in one.differs.items()
    }
    assert told == {
        ("a", "pretrain mqa", "tokens"): ("327680", "999"),
        ("b", "pretrain mqa", "tokens"): ("999", "327680"),
        ("a", "inference mqa", "from.tokens"): ("327680", "999"),
        ("b", "inference mqa", "from.tokens"): ("999", "327680"),
    }


def test_nothing_in_common_is_one_line_with_the_keys_and_how_to_let_them_differ():
    new = [with_trial(r, settings=replace(r.trial.settings, dtype="bfloat16")) for r in newer()]
    with pytest.raises(UserError, match=r"differs in dtype \(float32 / bfloat16\).*--across dtype") as caught:
        compare(OLD, new)
    assert "\n" not in str(caught.value)
    table = compare(OLD, new, across=("dtype",))
    assert table.differences and "let differ (A / B): dtype float32 / bfloat16" in " ".join(table.notes)


def test_other_text_is_refused_and_where_it_is_let_differ_quality_is_not_compared():
    new = [replace(r, data=replace(r.data, corpus_sha256="e" * 64)) for r in newer()]
    with pytest.raises(UserError, match=r"data\.corpus \(cccccccccccc / eeeeeeeeeeee\)"):
        compare(OLD, new)
    table = compare(OLD, new, across=("data",))
    assert {one.column.key for one in table.differences} == {"latency_median", "tokens_per_s", "memory_mean"}
    assert any("another text" in reason for reason in table.not_compared)


def test_other_versions_of_the_protocol_are_refused_by_name_whatever_may_differ():
    new = [with_trial(r, protocol_version=1) for r in newer()]
    with pytest.raises(UserError, match=r"a was measured by protocol_version \d+, b by 1"):
        compare(OLD, new, across=("all",))


def test_rows_of_another_version_within_a_side_are_left_out_by_name_whatever_may_differ():
    new = [with_trial(r, protocol_version=1) if r.trial.technique() == "mqa" else r for r in newer()]
    for across in ((), ("all",)):
        table = compare(OLD, new, across=across)
        assert "mqa" not in {one.technique for one in table.differences}
        assert all(one.differs["protocol_version"] for one in table.unmatched)


def test_what_would_make_several_rows_one_may_not_be_let_differ():
    longer = [with_trial(r, id=r.trial.id[::-1], settings=replace(r.trial.settings, dtype="bfloat16")) for r in OLD]
    with pytest.raises(UserError, match=r"a holds pretrain mha more than once, with dtype \(float32 / bfloat16\)"):
        compare([*OLD, *longer], newer(), across=("dtype",))


def test_quality_of_no_skill_on_both_sides_is_not_compared():
    def floored(records):
        return [replace(r, figures=r.figures | {"unigram_bits_per_byte": 1.0}) for r in records]

    both = compare(floored(OLD), floored(newer()))
    assert "bits_per_byte" not in {one.column.key for one in both.differences}
    assert any(reason.startswith("bits_per_byte: at_floor") for reason in both.not_compared)
    assert not [one for one in both.conclusions if one.column.key == "bits_per_byte"]
    one = compare(OLD, floored(newer()))
    assert "bits_per_byte" in {difference.column.key for difference in one.differences}


def test_a_smoke_protocol_is_shown_and_not_judged():
    def smoke(records):
        return [with_trial(r, protocol=replace(r.trial.protocol, name="smoke")) for r in records]

    table = compare(smoke(OLD), smoke(newer(**SLOW, seconds=2.0)), fail_over=0.05)
    assert {one.verdict for one in table.differences} == {""} and not table.regressions


def test_one_and_two_repeats_tell_nothing_and_fail_nothing():
    few = [[r for r in records if r.trial.repeat < 2] for records in (OLD, newer(**SLOW, seconds=3.0))]
    table = compare(*few, fail_over=0.05)
    assert found(table, **SLOW, metric="latency_median").limit == "cannot tell"
    assert not table.regressions and "measure 3 at least" in " ".join(table.verdict)


def test_other_seeds_on_the_same_device_are_not_paired():
    new = [with_trial(r, seed=r.trial.seed + 100) for r in newer()]
    assert {one.paired for one in compare(OLD, new).differences} == {False}


def test_another_torch_on_the_same_device_is_the_same_device_and_named():
    table = compare(OLD, [moved(r, libraries={"torch": "2.14.0"}) for r in newer()])
    assert table.same_hardware and table.environment["torch"] == ("2.13.0", "2.14.0")
    assert {one.column.key for one in table.differences} >= {"latency_median"}


def test_a_planted_flip_between_two_machines_is_found_and_nothing_else_flips():
    b = on_machine(planted(stage="inference", technique="gqa", window="decode", seconds=1.6), "other", peak=10)
    table = compare(on_machine(STUDY, "one"), b)
    flips = [one for one in table.conclusions if one.word == "flips"]
    assert {(one.technique, one.other, one.column.key) for one in flips if one.baseline} == {
        ("gqa", "mha", "latency_median")
    }
    assert all("gqa" in (one.technique, one.other) and one.window.startswith("decode") for one in flips)
    kept = found(table, technique="mqa", other="mha", window="train", metric="latency_median")
    assert kept.word == "carries over" and kept.on_a == kept.on_b == "better"
    assert any(text.startswith("What flips: inference decode") for text in table.verdict)


def test_between_machines_time_is_the_share_of_each_ones_own_limit():
    """Ten times the ceilings at the same time: a tenth of the limit is attained, whatever the time says."""
    table = compare(on_machine(STUDY, "one"), on_machine(planted(), "other", peak=10))
    assert not table.same_hardware and {one.paired for one in table.differences} == {False}
    share = found(table, stage="pretrain", technique="mha", metric="attained")
    assert share.ratio == pytest.approx(0.1, rel=0.02) and share.verdict == "worse"
    assert "latency_median" not in {one.column.key for one in table.differences}


def test_without_a_calibration_the_share_is_absent_with_its_reason_and_conclusions_stand():
    table = compare(on_machine(STUDY, "one"), on_machine(planted(), "other", calibrated=False))
    assert "attained" not in {one.column.key for one in table.differences}
    assert any(reason.startswith("attained: the device is not calibrated here") for reason in table.not_compared)
    assert found(table, technique="mqa", other="mha", window="train", metric="latency_median").word == "carries over"


def test_other_work_on_another_machine_leaves_only_shares_of_a_limit():
    b = [with_trial(r, settings=replace(r.trial.settings, dtype="bfloat16")) for r in on_machine(planted(), "other")]
    peak = {"float32": 1.9e11, "bfloat16": 1.9e12}
    b = [replace(r, ceilings=replace(r.ceilings, matmul_peak_flop_per_s=peak)) for r in b]
    table = compare(on_machine(STUDY, "one"), b, across=("dtype",))
    assert {one.column.key for one in table.differences} == {"attained"}


def test_a_side_of_two_machines_is_refused_by_name_unless_both_have_them():
    both = [*on_machine(STUDY, "one"), *on_machine(STUDY, "two")]
    with pytest.raises(UserError, match=r"a holds 2 machines: say which, a@machine:\w+ or a@machine:"):
        compare(both, on_machine(planted(), "other"))
    new = of_commit([*on_machine(planted(), "one"), *on_machine(planted(), "two")], "b" * 40)
    table = compare(both, new)
    assert table.same_hardware and len(table.differences) == 2 * len(compare(OLD, newer()).differences)


def test_a_users_own_file_is_what_is_compared_and_its_change_is_named():
    def own(records, sha256):
        mine = Choice(name="mine", path="./mine.py", sha256=sha256 * 8)
        return [with_trial(r, settings=replace(r.trial.settings, position=mine)) for r in records]

    table = compare(own(OLD, "12345678"), own(newer(), "abcdefab"))
    assert table.environment["mine.py"] == ("12345678", "abcdefab") and not table.unmatched


def test_cautions_of_both_sides_are_counted():
    cautious = [replace(r, cautions=(Caution(code="foreign_process", text="planted"),)) for r in newer()]
    notes = " ".join(compare(OLD, cautious).notes)
    assert f"foreign_process 0 / {len(cautious)}, under_5s_window 20 / 0" in notes


def test_selectors_choose_by_commit_machine_and_library_and_say_what_there_is():
    all_of = {"study": [*OLD, *newer()]}
    for selector, commit in (("aaaa", "a"), ("commit:bbbb", "b")):
        assert {r.environment.git_commit[0] for r in chosen(all_of, selector)["study"]} == {commit}
    assert len(chosen(all_of, f"machine:{OLD[0].environment.machine_id[:6]}")["study"]) == len(OLD) * 2
    assert len(chosen(all_of, "torch:2.13.0")["study"]) == len(OLD) * 2
    with pytest.raises(UserError, match=r"no measurement of commit 'ffff'. There is: aaaaaaaaaaaa, bbbbbbbbbbbb"):
        chosen(all_of, "ffff")


def test_the_same_measurements_on_both_sides_are_refused():
    with pytest.raises(UserError, match="are the same measurements"):
        compare(OLD, OLD)
    again = [replace(r, started_at=r.started_at.replace("2026", "2027")) for r in of_commit(planted(), "a" * 40)]
    assert {r.id for r in again} == {r.id for r in OLD}  # measured anew in another results folder
    table = compare(OLD, again)
    assert table.differences and not any("share measurements" in note for note in table.notes)


def test_an_unknown_metric_or_stage_is_answered_with_the_nearest():
    with pytest.raises(UnknownNameError, match="Did you mean 'latency_median'"):
        compare(OLD, newer(), metrics=("latency_medien",))
    with pytest.raises(UserError, match=r"a has no stage 'pretrian'\. Did you mean 'pretrain'"):
        compare(OLD, newer(), stages=("pretrian",))


def test_studies_of_two_results_folders_are_compared_study_by_study():
    sides = [
        make_side(name, {"one": records, "two": records}, by_study=True)
        for name, records in (("a", OLD), ("b", newer()))
    ]
    table = compare_sides(*sides, Options())
    assert len(table.differences) == 2 * len(compare(OLD, newer()).differences)


def test_welch_finds_what_is_there_and_agrees_with_pairing_where_pairs_share_nothing():
    a, b = [1.10, 1.12, 1.08, 1.11], [1.00, 1.02, 0.99, 1.01]
    free, by_round = unpaired(a, b, "low"), paired(dict(enumerate(a)), dict(enumerate(b)), "low")
    assert free.ratio == pytest.approx(by_round.ratio) and free.p_value < 0.001
    assert 3 < free.freedom() < 6.001
    assert unpaired([2.0] * 3, [1.0] * 3, "low").p_value == 0.0
    assert unpaired([0.0, 1.0, 2.0], [5.0, 6.0, 7.0], "low").scale == "linear"
