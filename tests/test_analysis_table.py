"""Which records count, what is compared with what, and what a table says of it."""

from __future__ import annotations

import dataclasses

import pytest
from msgspec.structs import replace

from efficientllm.analysis.examples import VARIANTS, example_study
from efficientllm.analysis.leaderboard import study_table
from efficientllm.analysis.select import select
from efficientllm.analysis.verdict import _ended_alike
from efficientllm.records.choice import Choice
from efficientllm.records.environment import make_environment
from efficientllm.records.measurement import Measurement
from efficientllm.records.protocol import PROTOCOLS
from efficientllm.records.settings import CalibrateSettings, PretrainSettings
from efficientllm.records.trial import make_trial


def pretrained(**kwargs) -> list[Measurement]:
    return [m for m in example_study(**kwargs) if m.trial.stage == "pretrain"]


def edited(study, wanted, **fields) -> list[Measurement]:
    """The study with some fields of the records that `wanted` picks replaced."""
    return [replace(m, **fields) if wanted(m) else m for m in study]


def is_(name: str, stage: str = "pretrain"):
    return lambda m: m.trial.technique() == name and m.trial.stage == stage


def row_of(table, name: str, section: int = 0):
    return next(row for row in table.sections[section].rows if row.technique == name)


STUDY = example_study()
TABLE = study_table("quickstart", STUDY, "Four variants")


def test_sections_stand_in_the_order_of_stages_and_coordinates():
    names = [(section.stage, section.window) for section in TABLE.sections]
    assert names == [
        ("pretrain", "train"),
        ("inference", "prefill batch=1 tokens=512"),
        ("inference", "decode batch=1 tokens=8192"),
        ("inference", "decode batch=16 tokens=8192"),
    ]


def test_the_order_in_which_records_are_read_changes_nothing():
    by_name = sorted(STUDY, key=lambda m: m.id)
    assert study_table("quickstart", by_name, "Four variants") == TABLE


def test_a_stage_that_takes_anothers_artifacts_comes_after_it():
    nameless = [replace(m, started_at="") for m in sorted(STUDY, key=lambda m: m.trial.stage)]
    assert [s.stage for s in study_table("q", nameless).sections] == [s.stage for s in TABLE.sections]


def test_a_large_grid_is_ordered_by_number_not_by_text():
    from efficientllm.records.settings import Grid

    grid = tuple(Grid(batch=batch, tokens=512) for batch in (16, 2, 1))
    windows = [s.window for s in study_table("q", example_study(repeats=1, decode=grid)).sections[2:]]
    assert windows == ["decode batch=1 tokens=512", "decode batch=2 tokens=512", "decode batch=16 tokens=512"]


def test_the_baseline_comes_first_and_is_compared_with_nothing():
    turned = sorted(STUDY, key=lambda m: m.trial.baseline)
    first = study_table("q", turned).sections[0].rows[0]
    assert (first.technique, first.baseline) == ("mha", True)
    assert {cell.verdict for cell in first.cells.values()} == {""}


def test_a_cell_holds_its_evidence():
    cell = row_of(TABLE, "mqa").cells["latency_median"]
    assert sorted(cell.values) == [0, 1, 2]
    assert cell.low < cell.value < cell.high
    assert cell.verdict == "better" and cell.ratio_low < cell.ratio < cell.ratio_high < 1
    assert (cell.rank, cell.tied) == (1, False)


def test_every_section_has_the_six_metrics_and_quality():
    for section in TABLE.sections:
        assert len(section.columns) == 7
        assert section.columns[-1].key == "bits_per_byte"
        for row in section.rows:
            assert set(row.cells) in (set(), {column.key for column in section.columns})


def test_no_hole_in_a_table_is_unexplained():
    for section in study_table("q", STUDY, detail=True).sections:
        for row in section.rows:
            assert row.cells or row.reason
            for cell in row.cells.values():
                assert (cell.value is None) == bool(cell.absent)
                assert cell.value is None or cell.low is not None or cell.why_no_interval


def test_out_of_memory_in_one_window_is_a_row_at_the_bottom_and_other_windows_stay():
    last = TABLE.sections[3].rows[-1]
    assert (last.technique, last.outcome, last.cells) == ("mha", "oom", {})
    assert "2.31 GiB" in last.reason
    assert row_of(TABLE, "mha", 2).outcome == "ok"


def test_weights_and_quality_are_compared_with_a_baseline_whose_window_failed():
    assert row_of(TABLE, "mqa", 3).cells["compression_resident"].value > 1
    assert row_of(TABLE, "mqa", 3).cells["latency_median"].verdict == ""


@pytest.mark.parametrize("outcome", ["oom", "unsupported", "diverged", "crashed"])
def test_a_technique_that_gave_no_figure_stands_at_the_bottom_with_its_reason(outcome):
    study = edited(pretrained(), is_("gqa"), outcome=outcome, reason="because of x", windows=())
    rows = study_table("q", study).sections[0].rows
    assert (rows[-1].technique, rows[-1].outcome, rows[-1].reason) == ("gqa", outcome, "because of x")
    assert [row.technique for row in rows[:-1]] == ["mha", "mqa", "mla"]


def test_an_invalid_record_never_counts_and_is_named_with_its_code():
    bad = next(m for m in STUDY if is_("mqa")(m))
    study = edited(STUDY, lambda m: m is bad, outcome="invalid", invalid_codes=("flops_above_peak",), reason="too fast")
    table = study_table("q", study)
    row = row_of(table, "mqa")
    assert sorted(row.cells["latency_median"].values) == [1, 2]
    assert "2 of 3 repeats" in row.reason and "too fast" in row.reason
    assert any("flops_above_peak" in text for text in table.left_out)


def test_an_ok_record_with_an_invalid_code_does_not_count_either():
    study = edited(pretrained(), is_("mqa"), invalid_codes=("bad_clock",))
    row = row_of(study_table("q", study), "mqa")
    assert (row.cells, row.outcome, row.reason) == ({}, "invalid", "bad_clock")


def test_the_newest_code_counts_and_older_records_are_left_out():
    old = pretrained()
    newer = []
    for m in old:
        environment = make_environment(
            devices=m.environment.devices, python=m.environment.python, platform=m.environment.platform,
            libraries=m.environment.libraries, code_digest="1", threads=2,
        )  # fmt: skip
        newer.append(replace(m, id=f"{m.id}-new", environment=environment, started_at="2027-01-01T00:00:00Z"))
    table = study_table("q", [*newer, *old])
    assert len(table.sections) == 1
    assert all(name.endswith("-new") for row in table.sections[0].rows for name in row.measurements)
    assert len(table.left_out) == len(old) and "other code" in table.left_out[0]


def test_a_crash_of_the_newest_code_is_not_hidden_behind_an_older_success():
    old = pretrained(repeats=1)
    environment = replace(old[1].environment, id="newer", code_digest="1")
    crash = replace(old[1], id="new", environment=environment, started_at="2027", outcome="crashed", reason="boom")
    chosen = select([*old, crash])
    assert crash in chosen.records and old[1] not in chosen.records


def test_a_second_attempt_that_went_well_replaces_a_crash():
    study = pretrained()
    crash = replace(study[0], id="crash", outcome="crashed", reason="boom", windows=())
    chosen = select([crash, *study])
    assert crash not in chosen.records
    assert chosen.left_out == ("crash (pretrain mha, repeat 0): an attempt that another replaces; crashed: boom",)


def test_two_machines_are_two_sections_and_never_one():
    other = [replace(m, id=f"{m.id}-b", environment=example_study(kind="cuda")[0].environment) for m in pretrained()]
    table = study_table("q", [*pretrained(), *other])
    assert [len(section.rows) for section in table.sections] == [4, 4]
    assert len({section.conditions["machine"] for section in table.sections}) == 2
    assert len(table.environments) == 2


@pytest.mark.parametrize("settings", [{"tokens": 999}, {"size": "small"}, {"dtype": "bfloat16"}, {"micro_batch": 2}])
def test_other_settings_are_another_section(settings):
    study = []
    for m in pretrained():
        if m.trial.technique() == "mqa":
            trial = m.trial
            changed = make_trial(
                settings=replace(trial.settings, **settings), protocol=trial.protocol, device=trial.device,
                seed=trial.seed, repeat=trial.repeat, stage=trial.stage, axes=trial.axes,
            )  # fmt: skip
            m = replace(m, trial=changed)
        study.append(m)
    assert [len(section.rows) for section in study_table("q", study).sections] == [3, 1]


def test_another_text_is_another_section_but_a_record_without_text_stays_with_its_own():
    study = [m if not is_("mqa")(m) else replace(m, data=replace(m.data, corpus_sha256="e" * 64)) for m in pretrained()]
    assert [len(section.rows) for section in study_table("q", study).sections] == [3, 1]
    study = edited(pretrained(), is_("mqa"), data=None, outcome="oom", reason="at once", windows=())
    assert [len(section.rows) for section in study_table("q", study).sections] == [4]


def two_axes(baseline_dtypes: tuple[str, ...]) -> list[Measurement]:
    study = []
    for m in pretrained():
        for dtype in ("float32", "bfloat16"):
            trial, axes = m.trial, {**m.trial.axes, "dtype": dtype}
            settings = PretrainSettings(mixer=Choice(name=trial.technique()), dtype=dtype)
            changed = make_trial(
                settings=settings, protocol=trial.protocol, device=trial.device, seed=trial.seed, repeat=trial.repeat,
                stage=trial.stage, axes=axes, baseline=trial.technique() == "mha" and dtype in baseline_dtypes,
            )  # fmt: skip
            study.append(replace(m, id=changed.id, trial=changed))
    return study


def test_a_baseline_in_several_settings_of_another_axis_makes_one_section_each():
    table = study_table("q", two_axes(("float32", "bfloat16")))
    assert [len(section.rows) for section in table.sections] == [4, 4]
    assert [section.conditions["dtype"] for section in table.sections] == ["float32", "bfloat16"]
    assert [section.rows[0].baseline for section in table.sections] == [True, True]


def test_one_baseline_over_two_axes_makes_one_section():
    table = study_table("q", two_axes(("float32",)))
    assert [len(section.rows) for section in table.sections] == [8]
    assert table.sections[0].rows[0].technique == "mha float32"


def test_one_repeat_has_no_interval_no_rank_and_no_verdict_beyond_unresolved():
    table = study_table("q", example_study(repeats=1))
    for row in table.sections[0].rows:
        for cell in row.cells.values():
            assert cell.rank is None and cell.low is None
            assert cell.verdict in ("", "unresolved")
    assert any(sentence.startswith("1 repeat cannot tell any difference") for sentence in table.verdict)


def test_smoke_shows_figures_and_ranks_nothing():
    table = study_table("q", example_study(protocol=PROTOCOLS["smoke"]))
    cells = [cell for section in table.sections for row in section.rows for cell in row.cells.values()]
    assert any(cell.value is not None for cell in cells)
    assert all(cell.rank is None and cell.verdict == "" and cell.ratio is None for cell in cells)
    assert all(row.on_front is None for section in table.sections for row in section.rows)
    assert "not_ranked" in {caution.code for caution in table.cautions}
    assert table.verdict[0].startswith("Nothing is ranked")


def test_quality_at_its_floor_is_shown_but_not_ranked_and_carries_no_compression():
    study = [replace(m, figures={**m.figures, "unigram_bits_per_byte": 2.35}) for m in pretrained()]
    table = study_table("q", study)
    floored = row_of(table, "mqa").cells
    assert floored["bits_per_byte"].value > 2.35
    assert floored["bits_per_byte"].rank is None and floored["bits_per_byte"].verdict == ""
    assert floored["compression_resident"].absent.startswith("at_floor")
    assert floored["latency_median"].verdict == "better"
    assert row_of(table, "mla").cells["bits_per_byte"].rank is not None
    assert "at_floor" in {caution.code for caution in table.cautions}


def test_a_baseline_at_its_floor_is_no_measure_of_compression():
    study = [replace(m, figures={**m.figures, "unigram_bits_per_byte": 2.295}) for m in pretrained()]
    cell = row_of(study_table("q", study), "mla").cells
    assert cell["bits_per_byte"].high < 2.295
    assert cell["compression_resident"].absent.startswith("baseline: at_floor: ")


def test_an_order_that_hangs_on_the_implementation_is_marked_and_said():
    variants = (VARIANTS[0], dataclasses.replace(VARIANTS[3], decode_s=3.0))
    table = study_table("q", example_study(variants=variants, oom=False))
    caution = next(c for c in table.cautions if c.code == "implementation_bound")
    assert "decode, batch 1, 8192 tokens (mha, mla)" in caution.text
    assert any("these implementations" in s or "as implemented here" in s for s in table.verdict)


def test_a_stage_whose_parent_failed_says_so():
    study = edited(STUDY, is_("gqa"), outcome="oom", reason="too large", windows=())
    study = [m for m in study if not is_("gqa", "inference")(m)]
    row = study_table("q", study).sections[1].rows[-1]
    assert (row.technique, row.outcome) == ("gqa", "missing")
    assert row.reason == "not measured: pretrain ended oom: too large"


def test_calibrations_are_no_rows():
    trial = make_trial(settings=CalibrateSettings(), protocol=PROTOCOLS["standard"], device="cpu", seed=0, repeat=0)
    table = study_table("q", [replace(STUDY[0], id="cal", trial=trial), *pretrained()])
    assert len(table.sections) == 1 and table.left_out == ()


def test_an_empty_study_says_so():
    table = study_table("q", [])
    assert table.sections == () and table.verdict == ("Nothing was measured yet.",)


def test_the_verdict_names_figures_costs_and_what_cannot_be_told():
    said = TABLE.verdict
    assert len(said) <= 6
    assert "mqa 4.7 % less time, 22 % less memory at 2.7 % more bits/byte" in said[0]
    assert "cannot tell" in said[0]
    assert any(sentence == "mha ran out of memory in decode, batch 16, 8192 tokens." for sentence in said)
    assert any(sentence.startswith("Not measured: energy (no energy counter") for sentence in said)


def test_the_verdict_says_whether_one_technique_is_first_on_everything():
    assert "None of these implementations is first on everything that was measured" in " ".join(TABLE.verdict)
    variants = (VARIANTS[0], dataclasses.replace(VARIANTS[2], train_s=0.5, decode_s=0.5, memory=0.5, bits=1.9))
    study = [replace(m, ceilings=None) for m in example_study(variants=variants, oom=False)]
    assert "mqa: beaten by none on any metric that parts the rows." in study_table("q", study).verdict


def test_cautions_are_said_once_a_code():
    codes = [caution.code for caution in TABLE.cautions]
    assert len(codes) == len(set(codes))
    short = next(caution for caution in TABLE.cautions if caution.code == "under_5s_window")
    assert short.text.startswith("12 of 24 records (mha, gqa, mqa, mla)")


def test_cards_and_sanity_lines_come_along():
    assert TABLE.cards["mqa"].source == "arXiv:1911.02150"
    (line,) = TABLE.sanity
    assert line.text == "stdlib" and line.stages == ("pretrain", "inference")
    assert line.bits_per_byte == {"bz2": 2.02, "unigram": 3.36}


def test_ten_thousand_records_are_one_table():
    study = pretrained(repeats=25)
    many = [replace(m, id=f"{m.id}-{i}", trial=replace(m.trial, id=f"{m.trial.id}-{i}", repeat=m.trial.repeat * 100 + i))
            for m in study for i in range(100)]  # fmt: skip
    assert len(many) == 10_000
    assert [len(row.measurements) for row in study_table("q", many).sections[0].rows] == [2500] * 4


def test_many_rows_that_ended_alike_are_counted_in_the_verdict_and_few_are_named():
    few, many = ({f"row {i}": ["decode"] for i in range(count)} for count in (4, 5))
    assert _ended_alike("is not supported", few) == [f"row {i} is not supported in decode" for i in range(4)]
    assert _ended_alike("is not supported", many) == ["5 rows are not supported in decode (the tables' ends say why)"]
