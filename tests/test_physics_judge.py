"""Each kind of impossible figure is caught, and a near miss of each is let through."""

from __future__ import annotations

import dataclasses
import math

import pytest
from msgspec.structs import replace

from efficientllm.analysis.leaderboard import study_table
from efficientllm.analysis.select import counts
from efficientllm.physics import learning
from efficientllm.physics.finding import Datasheet
from efficientllm.physics.judge import findings, judge
from efficientllm.records.environment import DeviceInfo
from efficientllm.records.examples import example_measurement, example_trial
from efficientllm.records.measurement import Ceilings, Measurement
from efficientllm.records.protocol import Protocol
from efficientllm.records.series import Series
from efficientllm.records.settings import FinetuneSettings, InferenceSettings, PretrainSettings
from efficientllm.records.trial import make_trial
from efficientllm.records.window import Work

SHEET = Datasheet(flop_per_s={"float32": 1e12}, bytes_per_s=1e11, capacity_bytes=1 << 34, power_cap_w=300.0)
CEILINGS = Ceilings(
    matmul_peak_flop_per_s={"float32": 8e11}, read_bytes_per_s=8e10, copy_bytes_per_s=7e10, idle_power_w=50.0
)
CACHE_BYTES = 1 << 20


def measured(window: str = "train", step_s=(1.0,) * 6, *, ceilings=CEILINGS, trial=None, whole=None, **kwargs):
    """A record on a device with a cache and ceilings; `whole` are figures of the whole trial."""
    measurement = example_measurement(window=window, step_s=step_s, trial=trial or example_trial(), **kwargs)
    device = DeviceInfo(
        kind="cuda", name="x", uuid="g", capacity_bytes=1 << 34, power_cap_w=300.0, last_level_cache_bytes=CACHE_BYTES
    )
    environment = replace(measurement.environment, devices=(device,))
    return replace(measurement, environment=environment, ceilings=ceilings, figures=whole or {})


def a_series(*values: float, unit: str = "") -> Series:
    return Series(name="", unit=unit, at_s=tuple(float(i) for i in range(len(values))), values=values)


def inference(name: str = "decode", **kwargs) -> Measurement:
    return measured(name, trial=example_trial(InferenceSettings(), stage="inference"), **kwargs)


def working(**work: float) -> Work:
    return Work(working_set_bytes=100 * CACHE_BYTES, **work)


LORA_ON_1_5B = {
    "predicted_weights_bytes": 3.38e9,
    "predicted_optimizer_bytes": 0.59e9,
    "predicted_activations_bytes": 13.98e9,
    "predicted_logits_bytes": 1.29e9,
    "predicted_peak_bytes": 19.25e9,
}
LN_VOCAB = math.log(4096)
HELDOUT = {"heldout_tokens": 1000.0, "heldout_bytes": 3000.0}


def heldout(bits: float, nats: float | None = None) -> dict[str, float]:
    nats = bits * 3000 / 1000 * math.log(2) if nats is None else nats
    return {**HELDOUT, "heldout_bits_per_byte": bits, "heldout_nats_per_token": nats}


# code -> (an impossible record, the nearest possible one)
IMPOSSIBLE = {
    "flops_above_peak": (measured(work=Work(model_flops=1.01e12)), measured(work=Work(model_flops=0.99e12))),
    "bytes_above_peak": (
        inference(work=working(moved_bytes=1.01e11)),
        inference(work=working(moved_bytes=0.99e11)),
    ),
    "step_below_floor": (
        measured(step_s=(0.49, 1.5, 1.0, 1.0, 1.0, 1.0), work=Work(model_flops=5e11)),
        measured(step_s=(0.51, 1.5, 1.0, 1.0, 1.0, 1.0), work=Work(model_flops=5e11)),
    ),
    "bad_clock": (measured(step_s=(1.0, 0.0, 1.0), work=Work()), measured(step_s=(1.0, 1e-9, 1.0), work=Work())),
    "memory_above_capacity": (
        measured(process_memory_bytes=a_series(1.0, (1 << 34) + 1.0)),
        measured(process_memory_bytes=a_series(1.0, float(1 << 34))),
    ),
    # LoRA of 1.5b as it was predicted, and the peak that a compiled step once had which had lost half of its gradients
    "memory_below_kept": tuple(
        measured(figures={"allocated_peak_bytes": peak_bytes}, whole=LORA_ON_1_5B) for peak_bytes in (10.3e9, 15.4e9)
    ),
    "memory_negative": (measured(figures={"allocated_peak_bytes": -1.0}), measured(figures={"allocated_peak_bytes": 0.0})),
    "energy_above_cap": (
        measured(figures={"energy_j": 6 * 300 * 1.06}),
        measured(figures={"energy_j": 6 * 300 * 1.06, "edge_error_j": 30.0}),
    ),
    "energy_below_idle": (measured(figures={"energy_j": 6 * 50 * 0.89}), measured(figures={"energy_j": 6 * 50 * 0.91})),
    "ratio_out_of_range": (
        measured(busy_ratio=a_series(0.9, 1.2, unit="ratio")),
        measured(busy_ratio=a_series(0.95, 1.05, unit="ratio")),
    ),
    "tokens_unaccounted": (
        measured(whole={"tokens_fed": 5_999.0}, trial=example_trial(PretrainSettings(tokens=6_000))),
        measured(whole={"tokens_fed": 6_000.0}, trial=example_trial(PretrainSettings(tokens=6_000))),
    ),
    "first_loss_off": (measured(whole={"first_loss": 0.94 * LN_VOCAB}), measured(whole={"first_loss": 1.2 * LN_VOCAB})),
    "bits_per_byte_absurd": (
        measured("quality", figures=heldout(0.19), whole={"bz2_bits_per_byte": 2.0}),
        measured("quality", figures=heldout(0.21), whole={"bz2_bits_per_byte": 2.0}),
    ),
    "quality_mismatch": (
        measured("quality", figures=heldout(1.0, nats=2.12)),
        measured("quality", figures=heldout(1.0, nats=2.09)),
    ),
    "loss_below_entropy": (
        measured("quality", figures={"heldout_nats_per_token": 6.8}, whole={"task_entropy_nats_per_token": 7.0}),
        measured("quality", figures={"heldout_nats_per_token": 6.95}, whole={"task_entropy_nats_per_token": 7.0}),
    ),
}  # fmt: skip


@pytest.mark.parametrize("code", IMPOSSIBLE)
def test_an_impossible_figure_makes_the_record_invalid_with_its_code(code):
    judged = judge(IMPOSSIBLE[code][0], SHEET)
    assert judged.outcome == "invalid"
    assert judged.invalid_codes == (code,)
    assert judged.windows[0].label() in judged.reason
    assert not counts(judged)  # no table takes it


@pytest.mark.parametrize("code", IMPOSSIBLE)
def test_an_impossible_figure_has_no_place_in_a_ranking(code):
    table = study_table("planted", [judge(IMPOSSIBLE[code][0], SHEET)])
    rows = [row for section in table.sections for row in section.rows]
    assert all(row.outcome == "invalid" and not row.cells for row in rows)
    assert any(code in line for line in table.left_out)


@pytest.mark.parametrize("code", IMPOSSIBLE)
def test_a_near_miss_stays_ok(code):
    judged = judge(IMPOSSIBLE[code][1], SHEET)
    assert (judged.outcome, judged.invalid_codes, judged.reason) == ("ok", (), "")


LONG = (1.0,) * 6
NOISY = (1.0, 1.3, 0.9, 1.2, 0.95, 1.1)
CPU_LIKE = Ceilings(matmul_peak_flop_per_s={"float32": 8e11}, read_bytes_per_s=8e10)
STANDARD = Protocol(cool_down_max_s=15.0)


def cooled(seconds: float) -> Measurement:
    return replace(measured(), phases_s={"cool_down": seconds})


# code -> (a doubtful record, the nearest one without doubt); no datasheet here
DOUBTFUL = {
    "no_datasheet": (
        measured(work=Work(model_flops=1.16 * 8e11), ceilings=CPU_LIKE),
        measured(work=Work(model_flops=1.14 * 8e11), ceilings=CPU_LIKE),
    ),
    "under_5s_window": (measured(step_s=(1.0, 1.0, 1.0, 1.0, 0.9)), measured(step_s=(1.0,) * 5)),
    "throttled": (
        measured(throttle_reasons=a_series(0, 0x4, 0x4, unit="bits")),
        measured(throttle_reasons=a_series(0, 0x1, 0x2, unit="bits")),
    ),
    "drift": (
        measured(step_s=(1.0,) * 6 + (1.07,) * 6),
        measured(step_s=(1.0,) * 6 + (1.04,) * 6),
    ),
    "outliers": (measured(step_s=(1.0,) * 9 + (2.1,)), measured(step_s=(1.0,) * 40 + (2.1,))),
    "host_bound": (measured(busy_ratio=a_series(0.69, 0.69, unit="ratio")), measured(busy_ratio=a_series(0.71, 0.71))),
    "foreign_process": (
        measured(figures={"foreign_busy_ratio": 0.11}),
        measured(figures={"foreign_busy_ratio": 0.09}),
    ),
    "warm_start": (cooled(15.0), cooled(14.9)),
    "energy_power_gap": (
        measured(figures={"cross_check_ratio": -0.06}),
        measured(figures={"cross_check_ratio": 0.05}),
    ),
}  # fmt: skip


@pytest.mark.parametrize("code", DOUBTFUL)
def test_a_doubtful_record_stays_ok_and_gets_a_caution(code):
    judged = judge(DOUBTFUL[code][0])
    assert judged.outcome == "ok"
    assert [caution.code for caution in judged.cautions] == [code]


@pytest.mark.parametrize("code", DOUBTFUL)
def test_a_record_just_inside_a_limit_gets_no_caution(code):
    assert judge(DOUBTFUL[code][1]).cautions == ()


def test_judging_twice_changes_nothing():
    once = judge(IMPOSSIBLE["flops_above_peak"][0], SHEET)
    doubted = judge(DOUBTFUL["drift"][0])
    assert judge(once, SHEET) == once
    assert judge(doubted) == doubted


def test_cautions_that_the_runner_gave_are_kept():
    from efficientllm.records.window import Caution

    given = Caution(code="warm_start", text="by the runner")
    assert judge(replace(measured(), cautions=(given,))).cautions == (given,)


def test_a_trial_that_ended_otherwise_keeps_its_outcome_but_gets_the_code():
    judged = judge(replace(IMPOSSIBLE["flops_above_peak"][0], outcome="oom", reason="out of memory"), SHEET)
    assert (judged.outcome, judged.reason, judged.invalid_codes) == ("oom", "out of memory", ("flops_above_peak",))


def test_a_window_that_did_not_end_well_is_not_judged():
    bad = IMPOSSIBLE["flops_above_peak"][0]
    crashed = replace(bad, windows=(replace(bad.windows[0], outcome="crashed"),))
    assert findings(crashed, SHEET) == []


def test_bytes_that_a_cache_may_serve_prove_nothing():
    work = Work(moved_bytes=1e12, working_set_bytes=4 * CACHE_BYTES - 1)
    assert judge(inference(work=work), SHEET).outcome == "ok"
    assert judge(inference(work=replace(work, working_set_bytes=4.0 * CACHE_BYTES)), SHEET).outcome == "invalid"


def test_a_step_that_kept_too_little_is_told_with_what_is_missing_and_what_that_may_mean():
    reason = judge(IMPOSSIBLE["memory_below_kept"][0], SHEET).reason
    assert "42.6 %" in reason and "activations 13.0 GiB" in reason and "logits" not in reason
    assert "backward pass" in reason and "compiler" in reason and "saved_bytes" in reason


def test_where_nothing_was_predicted_or_weights_are_streamed_a_low_peak_proves_nothing():
    low = IMPOSSIBLE["memory_below_kept"][0]
    assert judge(replace(low, figures={}), SHEET).outcome == "ok"
    settings = replace(low.trial.settings, offload="weights")
    assert judge(replace(low, trial=replace(low.trial, settings=settings)), SHEET).outcome == "ok"


def test_only_a_run_from_scratch_must_begin_in_ignorance():
    protocol, settings = Protocol(), PretrainSettings()
    child = make_trial(settings=settings, protocol=protocol, device="cuda", seed=0, repeat=0, parent="abc")
    assert judge(measured(trial=child, whole={"first_loss": 3.0})).outcome == "ok"


def test_the_segment_of_a_resumed_run_holds_no_more_than_was_fed_since():
    trial = example_trial(PretrainSettings(tokens=10_000))
    whole = {"tokens_fed": 10_000.0, "resumed_step": 4.0}
    assert judge(measured(trial=trial, whole=whole)).outcome == "ok"  # 6 steps of 1,000 tokens
    judged = judge(measured(trial=trial, whole={**whole, "resumed_step": 5.0}))
    assert judged.invalid_codes == ("tokens_unaccounted",)
    assert "but 5000 were fed since step 5" in judged.reason


def test_the_curve_must_hold_every_token_that_was_fed():
    loss = a_series(8.0, 7.0, 6.0, unit="nats/token")
    trial = example_trial(PretrainSettings(tokens=3_000))
    good = measured("curve", step_s=(), trial=trial, whole={"tokens_fed": 3_000.0}, loss=loss)
    short = replace(good, figures={"tokens_fed": 4_000.0})
    assert judge(good).outcome == "ok"
    assert judge(short).invalid_codes == ("tokens_unaccounted",)


def test_a_counter_that_stood_still_is_invalid_without_any_idle_power():
    assert judge(measured(figures={"energy_j": 0.0}, ceilings=None)).invalid_codes == ("energy_below_idle",)


def test_two_devices_may_do_twice_as_much():
    one = measured(work=Work(model_flops=1.9e12))
    two = replace(one, environment=replace(one.environment, devices=one.environment.devices * 2))
    assert judge(one, SHEET).outcome == "invalid"
    assert judge(two, SHEET).outcome == "ok"


def test_fifty_counter_updates_make_up_for_a_short_window():
    assert judge(measured(step_s=(1.0,), figures={"num_energy_updates": 50.0})).cautions == ()
    text = judge(measured(step_s=(1.0,), figures={"energy_j": 200.0, "edge_error_j": 6.0, "energy_resolution_j": 4.0}))
    assert text.cautions[0].text.endswith("its energy is known to ±5.00 %")


def test_random_weights_may_be_worse_than_a_uniform_guess():
    bad = measured("quality", figures=heldout(9.0))
    assert judge(bad).invalid_codes == ("bits_per_byte_absurd",)
    assert judge(replace(bad, figures={"random_weights": 1.0})).outcome == "ok"


def test_steps_longer_than_their_window_betray_the_clock():
    good = measured()
    window = replace(good.windows[0], end_s=5.9)
    assert judge(replace(good, windows=(window,))).invalid_codes == ("bad_clock",)


def test_a_card_that_was_seen_above_its_boost_clock_may_do_more_than_its_datasheet():
    work, sheet = Work(model_flops=1.05e12), replace_sheet(boost_clock_hz=1.8e9)
    assert judge(measured(work=work, clock_hz=a_series(1.8e9, 1.8e9)), sheet).outcome == "invalid"
    assert judge(measured(work=work, clock_hz=a_series(1.8e9, 1.98e9)), sheet).outcome == "ok"


def replace_sheet(**fields) -> Datasheet:
    return dataclasses.replace(SHEET, **fields)


def test_a_window_too_short_for_its_counter_is_not_told_that_power_disagrees():
    figures = {"cross_check_ratio": -0.12, "energy_resolution_j": 40.0}
    assert "energy_power_gap" not in {finding.code for finding in findings(measured(figures=figures))}


def test_responses_may_be_told_for_nothing_and_what_was_pretrained_may_be_forgotten_altogether():
    def found(name, bits, settings=None):
        figures = {"heldout_bits_per_byte": bits, "heldout_tokens": 100.0, "heldout_bytes": 200.0}
        record = example_measurement(trial=example_trial(settings), window=name, figures=figures)
        return learning.bits_per_byte_are_possible(record, record.windows[0])

    assert found("quality", 0.001) and not found("quality", 0.001, FinetuneSettings())
    assert found("quality", math.nan, FinetuneSettings()) and found("quality", 40.0, FinetuneSettings())
    assert found("forgetting_before", 40.0, FinetuneSettings())
    assert not found("forgetting_after", 40.0, FinetuneSettings())
