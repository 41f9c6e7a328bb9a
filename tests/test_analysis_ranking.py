"""Rankings: who is ranked, who is not and why, what may not be compared, and fronts with limits."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from efficientllm.analysis.asked import Asked
from efficientllm.analysis.examples import VARIANTS, example_study
from efficientllm.analysis.frontier import fronts
from efficientllm.analysis.limits import kept, limit_of
from efficientllm.analysis.pool import Pool
from efficientllm.analysis.ranking import rankings
from efficientllm.analysis.table import Cell
from efficientllm.errors import UserError
from efficientllm.records.codec import decode_outline, encode
from efficientllm.records.protocol import PROTOCOLS

STUDY = example_study(kind="cuda", energy=True)
PRETRAIN = Asked(stage="pretrain")


def ranked(records, asked=PRETRAIN, index=0):
    return rankings(Pool({"s": records}), asked).rankings[index]


def row(ranking, name):
    return next(one for one in ranking.rows if one.row.technique == name)


def changed(records, technique, **fields):
    return [replace(m, **fields) if m.trial.technique() == technique else m for m in records]


def with_figures(record, **figures):
    windows = tuple(replace(w, figures={**w.figures, **figures}) if w.name == "quality" else w for w in record.windows)
    return replace(record, windows=windows)


def elsewhere(records):
    return [
        replace(
            m,
            id=m.id.replace(m.environment.id, "f" * 16),
            environment=replace(m.environment, id="f" * 16, machine_id="another"),
        )
        for m in records
    ]


def test_the_fastest_is_first_by_time_and_its_probabilities_say_so():
    ranking = ranked(STUDY)
    mqa, mla = row(ranking, "mqa"), row(ranking, "mla")
    assert mqa.row.cells["latency_median"].rank == 1
    assert mla.row.cells["latency_median"].rank == 4
    assert mqa.best["latency_median"] > 0.9
    for key in ranking.weights:
        assert sum(one.best[key] for one in ranking.rows) == pytest.approx(1.0)


def test_the_score_is_made_of_the_parts_beside_it_and_sorts_the_rows():
    ranking = ranked(STUDY, Asked(stage="pretrain", weights={"memory": 2, "latency": 1}))
    assert ranking.weights == {"memory_mean": 2, "latency_median": 1}
    for one in ranking.rows:
        parts = one.parts
        assert one.score == pytest.approx(3 / (2 / parts["memory_mean"] + 1 / parts["latency_median"]))
        assert one.score_low <= one.score_high
    found = [one.score for one in ranking.rows]
    assert found == sorted(found, reverse=True)
    assert sum(one.score_first for one in ranking.rows) == pytest.approx(1.0)


def test_a_metric_that_one_row_lacks_leaves_the_score_of_all_and_that_is_said():
    records = [
        replace(m, windows=tuple(replace(w, figures={}, absent={"energy_j": "the counter stood still"})
                                 if w.name == "train" else w for w in m.windows))
        if m.trial.technique() == "gqa" else m
        for m in STUDY
    ]  # fmt: skip
    ranking = ranked(records)
    assert ranking.left_score["energy_per_token"] == "absent for gqa: the counter stood still"
    assert "energy_per_token" not in ranking.weights
    assert all("energy_per_token" not in one.parts for one in ranking.rows)


def test_what_is_invalid_never_appears_and_is_said_to_be_left_out():
    found = rankings(Pool({"s": changed(STUDY, "mqa", invalid_codes=("over_capacity",))}), PRETRAIN)
    assert "mqa" not in {one.row.technique for one in found.rankings[0].rows}
    assert sum("invalid (over_capacity)" in text for text in found.left_out) == 6


@pytest.mark.parametrize("outcome", ["oom", "unsupported", "diverged", "crashed"])
def test_what_gave_no_figure_stands_at_the_bottom_with_its_reason(outcome):
    records = changed(STUDY, "mqa", outcome=outcome, reason="for this reason", windows=())
    last = ranked(records).rows[-1]
    assert (last.row.technique, last.row.outcome, last.row.reason) == ("mqa", outcome, "for this reason")
    assert last.score is None and not last.best


def test_a_child_of_what_failed_is_there_as_not_measured():
    records = [m for m in STUDY if not (m.trial.technique() == "mqa" and m.trial.stage == "inference")]
    records = changed(records, "mqa", outcome="oom", reason="no room", windows=())
    last = ranked(records, Asked(stage="inference")).rows[-1]
    assert (last.row.technique, last.row.outcome) == ("mqa", "missing")
    assert "pretrain ended oom: no room" in last.row.reason


def test_smoke_rows_are_not_ranked_but_said():
    found = rankings(Pool({"s": example_study(protocol=PROTOCOLS["smoke"])}), PRETRAIN)
    assert found.rankings == ()
    assert found.not_ranked == (
        "pretrain: 4 rows measured with protocol smoke, which shows coverage and is too short to rank",
    )


def test_quality_at_its_floor_is_shown_and_neither_ranked_nor_scored_nor_on_the_front():
    records = [with_figures(m, heldout_bits_per_byte=3.4) if m.trial.technique() == "mla" else m for m in STUDY]
    ranking = ranked(records)
    mla = row(ranking, "mla")
    assert mla.row.cells["bits_per_byte"].value == pytest.approx(3.4)
    assert mla.row.cells["bits_per_byte"].rank is None
    assert "bits_per_byte" not in mla.best
    assert "at_floor" in ranking.left_score["bits_per_byte"]
    assert (mla.front, mla.row.on_front) == (None, None)
    assert row(ranking, "mqa").front is not None


def test_a_pair_whose_order_hangs_on_the_implementation_is_marked_on_both():
    # mqa is the fastest; with twice the arithmetic its shortest possible time is the longest
    records = [
        replace(m, windows=tuple(replace(w, work=replace(w.work, model_flops=2 * w.work.model_flops))
                                 for w in m.windows)) if m.trial.technique() == "mqa" else m
        for m in example_study()
    ]  # fmt: skip
    ranking = ranked(records)
    pairs = {one.row.technique: set(one.bound_with) for one in ranking.rows}
    assert pairs == {"mqa": {"mha", "gqa", "mla"}, "mha": {"mqa"}, "gqa": {"mqa"}, "mla": {"mqa"}}
    assert not any(one.bound_with for one in ranked(example_study()).rows)


def test_two_repeats_give_neither_probabilities_nor_intervals_but_say_why():
    ranking = ranked(example_study(repeats=2))
    assert ranking.uncertain == "2 rounds that all rows have: 3 are needed"
    assert all(one.front is None and one.score_low is None and not one.best for one in ranking.rows)
    assert all(one.score is not None for one in ranking.rows)


def test_studies_whose_rows_may_be_compared_stand_in_one_table_that_says_whose_each_is():
    halves = {"a": [m for m in STUDY if m.trial.technique() in ("mha", "gqa")],
              "b": [m for m in STUDY if m.trial.technique() in ("mqa", "mla")]}  # fmt: skip
    apart = rankings(Pool(halves), PRETRAIN).rankings
    together = ranked(STUDY)
    assert len(apart) == 1
    assert {one.row.technique: one.studies for one in apart[0].rows} == {
        "mha": ("a",), "gqa": ("a",), "mqa": ("b",), "mla": ("b",),
    }  # fmt: skip
    assert {one.row.technique: one.score for one in apart[0].rows} == {
        one.row.technique: pytest.approx(one.score) for one in together.rows
    }


def test_a_record_of_two_studies_counts_once():
    twice = rankings(Pool({"a": STUDY, "b": STUDY}), PRETRAIN).rankings[0]
    assert len(row(twice, "mha").row.cells["latency_median"].values) == 3
    assert row(twice, "mha").studies == ("a", "b")


def test_studies_of_which_no_rows_may_be_compared_are_refused_with_keys_and_both_values():
    with pytest.raises(UserError, match=r"environment\.machine_id \(\w+ NVIDIA H200 / another NVIDIA H200\)"):
        rankings(Pool({"here": STUDY, "there": elsewhere(STUDY)}), Asked())


def test_groups_that_stand_apart_say_in_what_they_differ():
    small = example_study(kind="cuda", energy=True, size="small")
    first, second = rankings(Pool({"s": [*STUDY, *small]}), PRETRAIN).rankings
    assert first.apart == ""
    assert second.apart == "not comparable with pretrain above: settings.size (tiny / small)"


def test_two_rows_that_do_not_meet_are_refused_and_two_that_do_are_ranked_alone():
    small = example_study(kind="cuda", size="small", variants=(VARIANTS[0], replaced("mla", "nsa")))
    pool = Pool({"s": [*STUDY, *small]})
    with pytest.raises(UserError, match=r"gqa and nsa may not be compared.* settings\.size \(tiny / small\)"):
        rankings(pool, Asked(rows=("gqa", "nsa")))
    alone = rankings(pool, Asked(stage="pretrain", rows=("gqa", "mqa"))).rankings[0]
    assert {one.row.technique for one in alone.rows} == {"gqa", "mqa"}


def replaced(name, new):
    variant = next(v for v in VARIANTS if v.name == name)
    return type(variant)(**{**vars(variant), "name": new})


def test_what_stands_on_another_training_is_not_compared_and_on_an_unknown_one_is():
    longer = [
        replace(m, trial=replace(m.trial, settings=replace(m.trial.settings, tokens=655_360), id=f"longer-{i}"),
                id=f"longer-{i}-{m.environment.id}-0")
        for i, m in enumerate(STUDY) if m.trial.stage == "pretrain"
    ]  # fmt: skip
    parents = {m.trial.technique() + str(m.trial.repeat): m.trial.id for m in longer}
    children = [
        replace(m, trial=replace(m.trial, parent=parents[m.trial.technique() + str(m.trial.repeat)], id=f"child-{i}"),
                id=f"child-{i}-{m.environment.id}-0")
        for i, m in enumerate(STUDY) if m.trial.stage == "inference" and m.trial.technique() in ("mqa", "mla")
    ]  # fmt: skip
    short = [m for m in STUDY if m.trial.technique() in ("mha", "gqa")]
    with pytest.raises(UserError, match="nothing in them may be compared"):
        rankings(Pool({"short": short, "long": [*longer, *children]}), Asked(stage="inference"))
    unknown = rankings(Pool({"short": short, "long": children}), Asked(stage="inference", window="prefill"))
    assert {one.row.technique for one in unknown.rankings[0].rows} == {"mha", "gqa", "mqa", "mla"}


def test_repeats_of_two_studies_with_other_seeds_are_rounds_of_their_own():
    other = [
        replace(m, id=f"seed-{i}-{m.environment.id}-0", trial=replace(m.trial, id=f"seed-{i}", seed=100 + m.trial.seed))
        for i, m in enumerate(STUDY) if m.trial.stage == "pretrain"
    ]  # fmt: skip
    ranking = rankings(Pool({"a": STUDY, "b": other}), PRETRAIN).rankings[0]
    assert {len(one.row.cells["latency_median"].values) for one in ranking.rows} == {6}


def test_from_outlines_and_series_read_when_needed_comes_the_same():
    outlines = [decode_outline(encode(m)) for m in STUDY]
    by_id = {m.id: m for m in STUDY}
    assert rankings(Pool({"s": outlines}, (), lambda study, one: by_id[one]), Asked()) == rankings(
        Pool({"s": STUDY}), Asked()
    )


def test_a_record_whose_series_cannot_be_read_after_all_is_left_out_and_said():
    by_id = {m.id: m for m in STUDY}
    bad = next(m.id for m in STUDY if m.trial.technique() == "mla" and m.trial.stage == "pretrain")
    pool = Pool({"s": STUDY}, (), lambda study, one: f"{one}.json: damaged" if one == bad else by_id[one])
    found = rankings(pool, PRETRAIN)
    assert found.left_out == (f"s/{bad}.json: damaged",)
    assert len(row(found.rankings[0], "mla").row.cells["latency_median"].values) == 2


def test_too_many_tables_are_counted_and_each_stage_is_still_there():
    found = rankings(Pool({"s": STUDY}), Asked(at_most=2))
    assert [one.stage for one in found.rankings] == ["pretrain", "inference"]
    assert found.more == 2


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"metrics": ("latency_medain",)}, "Did you mean 'latency_median'?"),
        ({"metrics": ("parameters",)}, "metric parameters has no better side: it is stated, not ranked"),
        ({"weights": {"memroy": 1.0}}, "Did you mean 'memory'?"),
        ({"weights": {"memory": -1.0}}, "memory=-1"),
        ({"weights": {"memory": 0.0}}, "all are 0"),
        ({"stage": "pretrian"}, "unknown stage 'pretrian' in s. Did you mean 'pretrain'?"),
        ({"window": "decde"}, "unknown window 'decde'. Did you mean 'decode'?"),
        ({"rows": ("mqq",)}, "unknown row 'mqq' in s"),
        ({"metrics": ("accuracy",)}, "no window here has accuracy"),
    ],
)
def test_what_is_not_there_is_refused_in_one_line_with_what_is(asked, says):
    with pytest.raises(UserError) as error:
        rankings(Pool({"s": STUDY}), Asked(**asked))
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_who_is_beaten_is_told_by_whom_and_by_what():
    found = fronts(Pool({"s": STUDY}), Asked(stage="pretrain", metrics=("latency", "memory"))).fronts[0]
    states = {one.row.technique: one for one in found.rows}
    assert states["mqa"].state == "front" and states["mha"].state == "beaten"
    beating = states["mha"].beatings[0]
    gains = {gain.metric: gain for gain in beating.gains}
    assert beating.by == "mqa"
    assert (gains["latency_median"].word, gains["memory_mean"].word) == ("better", "better")
    assert gains["memory_mean"].low < gains["memory_mean"].ratio < gains["memory_mean"].high < 0.85
    assert states["mqa"].probability > 0.9 > 0.1 > states["mha"].probability


def test_a_row_past_a_limit_is_out_and_beats_nobody():
    asked = Asked(stage="pretrain", metrics=("latency", "memory"))
    limits = [limit_of("quality<=2.34")]
    found = fronts(Pool({"s": STUDY}), asked, limits).fronts[0]
    states = {one.row.technique: one for one in found.rows}
    assert states["mqa"].state == "out"
    assert states["mqa"].probability is None
    assert all(beating.by != "mqa" for one in found.rows for beating in one.beatings)


def test_a_front_needs_two_metrics():
    with pytest.raises(UserError, match="two metrics at least"):
        fronts(Pool({"s": STUDY}), Asked(metrics=("latency",)))


def cell(*values):
    return Cell(value=sum(values) / len(values), values=dict(enumerate(values)))


@pytest.mark.parametrize(
    ("limit", "values", "verdict"),
    [
        ("latency_median<=30ms", (0.020, 0.021, 0.019), "in"),
        ("latency_median<=30ms", (0.040, 0.041, 0.039), "out"),
        ("latency_median<=30ms", (0.029, 0.034, 0.026), "cannot tell"),
        ("tokens_per_s>=10k", (12e3, 12.1e3, 11.9e3), "in"),
        ("tokens_per_s>=10k", (8e3, 8.1e3, 7.9e3), "out"),
        ("memory_peak<=24GiB", (25 * 2**30,) * 3, "out"),
        ("memory_peak<=24GiB", (24 * 2**30,) * 3, "in"),
        ("latency_median<=30ms", (0.031,), "out"),
        ("latency_median<=30ms", (0.029, 0.0295), "in"),
    ],
)
def test_a_limit_puts_out_what_is_shown_past_it_and_marks_what_cannot_be_told(limit, values, verdict):
    assert kept(limit_of(limit), "decode", cell(*values), None).verdict == verdict


@pytest.mark.parametrize(
    ("factor", "verdict"), [(1.001, "in"), (1.05, "out"), (1.01, "cannot tell")]
)  # fmt: skip
def test_a_limit_against_the_baseline_is_judged_by_rounds(factor, verdict):
    base = cell(2.0, 2.2, 1.9, 2.1)
    noise = (1.001, 0.999, 1.0005, 0.9995)
    own = cell(*(value * factor * n for value, n in zip(base.values.values(), noise, strict=True)))
    assert kept(limit_of("bits_per_byte<=+1%"), "decode", own, base).verdict == verdict


def test_quality_at_its_floor_keeps_no_limit():
    records = [with_figures(m, heldout_bits_per_byte=3.4) for m in STUDY]
    found = fronts(Pool({"s": records}), Asked(stage="pretrain", metrics=("latency", "memory")),
                   [limit_of("quality<=+1%")]).fronts[0]  # fmt: skip
    told = {one.row.technique: one.limits[0] for one in found.rows}
    assert told["mqa"].verdict == "cannot tell" and "at_floor" in told["mqa"].why


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("memory_peak=24GiB", "is no limit"),
        ("memory_peek<=24GiB", "Did you mean 'memory_peak'?"),
        ("memory_peak<=24 parsecs", "'parsecs' is no unit of it; known: B, TiB"),
        ("latency_median<=fast", "begins with no number"),
        ("bits_per_byte>=+1%", "at most so much less is METRIC>=-1%"),
    ],
)
def test_a_limit_that_cannot_be_read_is_refused_in_one_line(text, says):
    with pytest.raises(UserError) as error:
        limit_of(text)
    assert says in str(error.value)
    assert "\n" not in str(error.value)
