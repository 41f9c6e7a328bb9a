"""Loss at equal tokens, time and energy: the common budget, what is read there, and what is absent."""

from __future__ import annotations

from msgspec.structs import replace

from efficientllm.analysis.budgets import budget_section
from efficientllm.analysis.curve import TrainingCurve, training_curve
from efficientllm.analysis.examples import example_study
from efficientllm.analysis.group import groups
from efficientllm.analysis.leaderboard import study_table
from efficientllm.analysis.metrics._target import example
from efficientllm.analysis.metrics.energy_to_loss_j import energy_to_loss_j
from efficientllm.analysis.metrics.time_to_loss_s import time_to_loss_s
from efficientllm.records.examples import example_measurement
from efficientllm.records.protocol import PROTOCOLS
from efficientllm.records.series import Series
from efficientllm.records.settings import PretrainSettings
from efficientllm.records.trial import make_trial
from efficientllm.records.window import Window, Work

STEPS = 200


def trained(mixer, repeat, *, step_s, power_w=100.0, energy=True, floor=2.0):
    """Return a run whose loss falls by 0.02 a step from floor + 4, at a constant pace and power."""
    at_s = tuple(10.0 + step_s * (step + 1) for step in range(STEPS))
    loss = tuple(floor + 0.02 * (STEPS - step) + 0.001 * repeat for step in range(STEPS))
    series = [Series(name="loss", unit="nats/token", at_s=at_s, values=loss)]
    if energy:
        joules = tuple(power_w * (at - 10.0) for at in (10.0, *at_s))
        series.append(Series(name="energy_j", unit="j", at_s=(10.0, *at_s), values=joules))
    curve = Window(name="curve", begin_s=10.0, end_s=at_s[-1], work=Work(tokens=100), series=tuple(series))
    train = replace(curve, name="train", absent={} if energy else {"energy_j": "no counter here"})
    trial = make_trial(
        settings=PretrainSettings(), protocol=PROTOCOLS["standard"], device="cpu", seed=repeat, repeat=repeat,
        stage="pretrain", axes={"mixer": mixer}, baseline=mixer == "mha",
    )  # fmt: skip
    return replace(example_measurement(), id=f"{mixer}-{repeat}-0", trial=replace(trial, id=f"{mixer}{repeat}"),
                   windows=(curve, train))  # fmt: skip


def section_of(*records):
    (group,) = groups(records)
    return budget_section(group)


def cells_of(section, row):
    return {key: cell for r in section.rows if r.technique == row for key, cell in r.cells.items()}


def test_the_budget_is_the_least_that_any_run_spent_and_each_loss_is_read_off_its_own_curve_there():
    fast = [trained("mha", repeat, step_s=0.5, power_w=300.0) for repeat in range(3)]
    slow = [trained("mla", repeat, step_s=1.0, power_w=100.0, floor=1.0) for repeat in range(3)]
    section = section_of(*fast, *slow)
    titles = {column.key: column.title for column in section.columns}
    assert titles["loss_at_equal_tokens"] == "Loss at 20.0 k tokens"
    assert titles["loss_at_equal_time"] == "Loss at 99.5 s"  # 199 of the fast run's steps, from the end of the first
    assert titles["loss_at_equal_energy"] == "Loss at 19.9 kJ"  # 199 of the slow run's steps
    mha, mla = cells_of(section, "mha"), cells_of(section, "mla")
    end = mha["loss_at_equal_tokens"].values[0]
    assert abs(end - (2.0 + 0.02 * 2.5)) < 1e-9  # the mean of the last 4 of 200 steps
    assert mha["loss_at_equal_time"].values[0] == end
    assert abs(mla["loss_at_equal_time"].values[0] - (1.0 + 0.02 * 101.5)) < 1e-9  # steps 99 and 100 of 200
    assert mla["loss_at_equal_tokens"].verdict == "better" and mla["loss_at_equal_time"].verdict == "worse"
    assert mla["loss_at_equal_energy"].values[0] == mla["loss_at_equal_tokens"].values[0]
    assert mha["loss_at_equal_energy"].values[0] > mha["loss_at_equal_time"].values[0]
    assert mla["loss_at_equal_time"].low < mla["loss_at_equal_time"].value < mla["loss_at_equal_time"].high


def test_without_a_counter_loss_at_equal_energy_is_absent_with_the_reason():
    section = section_of(trained("mha", 0, step_s=1.0, energy=False), trained("mla", 0, step_s=1.0, energy=False))
    assert {cells["loss_at_equal_energy"].absent for cells in (row.cells for row in section.rows)} == {
        "no counter here"
    }
    assert section.columns[2].title == "Loss at equal energy"


def test_one_row_has_nothing_to_be_equal_to():
    assert section_of(trained("mha", 0, step_s=1.0)) is None


def test_a_smoke_study_is_shown_and_not_ranked():
    table = study_table("s", example_study(protocol=PROTOCOLS["smoke"]))
    cells = [cell for section in table.budgets for row in section.rows for cell in row.cells.values()]
    assert cells and not any(cell.rank or cell.verdict for cell in cells)


def test_details_and_studies_without_training_have_no_such_section():
    assert not study_table("s", example_study(), detail=True).budgets
    assert not study_table("s", [m for m in example_study() if m.trial.stage == "inference"]).budgets


def test_a_curve_is_smoothed_over_its_last_steps_and_reaches_a_loss_once_its_mean_does():
    curve = TrainingCurve(loss=(9.0,) * 99 + (1.0,), tokens=(), seconds=())
    assert curve.smoothed(100) == 5.0
    assert curve.step_that_reaches(5.0) == 99
    assert curve.step_that_reaches(4.9) is None


def test_energy_that_covers_only_the_end_of_a_run_is_no_energy_of_the_curve():
    record = trained("mha", 0, step_s=1.0)
    curve = record.windows[0]
    late = replace(curve.series[1], at_s=curve.series[1].at_s[50:], values=curve.series[1].values[50:])
    assert training_curve(record).joules[-1] == 19_900.0
    cut = replace(record, windows=(replace(curve, series=(curve.series[0], late)),))
    assert training_curve(cut).joules == ()


def test_a_run_that_went_on_from_a_checkpoint_counts_by_its_tokens_alone():
    whole = trained("mha", 0, step_s=1.0)
    resumed = replace(trained("mla", 0, step_s=1.0), figures={"resumed_step": 120.0})
    section = section_of(whole, resumed)
    mha, mla = cells_of(section, "mha"), cells_of(section, "mla")
    assert mla["loss_at_equal_tokens"].values == mha["loss_at_equal_tokens"].values
    why = "resumed: the time and energy before step 120 are in another attempt's record"
    assert mla["loss_at_equal_time"].absent == mla["loss_at_equal_energy"].absent == why
    assert {c.key: c.title for c in section.columns}["loss_at_equal_time"] == "Loss at 3.32 min"  # the whole run's own
    assert training_curve(resumed).loss == training_curve(whole).loss
    assert training_curve(resumed).seconds == training_curve(resumed).joules == ()


def test_time_and_energy_to_a_loss_are_absent_for_a_resumed_run():
    record, window = example(target_loss=3.0)
    resumed = replace(record, figures={"resumed_step": 2.0})
    for metric in (time_to_loss_s, energy_to_loss_j):
        assert metric(record, window) > 0
        assert "before step 2 are in another attempt's record" in metric(resumed, window).reason
