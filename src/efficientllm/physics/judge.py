"""All checks over one record: it comes back as it was, with cautions, or marked `invalid`."""

from __future__ import annotations

import msgspec

from efficientllm.physics import amounts, backward, learning, rates, suspicion
from efficientllm.physics.finding import Datasheet, Finding
from efficientllm.records.measurement import Measurement

_AGAINST_A_DATASHEET = (
    rates.flops_within_peak,
    rates.bytes_within_bandwidth,
    rates.steps_above_floor,
    amounts.memory_within_capacity,
    amounts.energy_within_cap,
)
_OF_THE_RECORD = (
    rates.clock_is_sane,
    backward.kept_for_the_backward_pass,
    amounts.energy_above_idle,
    amounts.energy_agrees_with_power,
    amounts.energy_agrees_with_external,
    amounts.ratios_within_one,
    learning.tokens_accounted,
    learning.first_loss_is_ignorant,
    learning.bits_per_byte_are_possible,
    learning.quality_agrees_with_itself,
    learning.loss_above_entropy,
)
#: Doubts are raised on the windows whose speed is reported; quality and the curve around training are not timed.
_TIMED = ("train", "prefill", "decode", "generate", "serve", "user")
_DOUBTS = (
    suspicion.long_enough,
    suspicion.not_throttled,
    suspicion.no_drift,
    suspicion.no_outliers,
    suspicion.device_sets_the_pace,
    suspicion.alone,
)


def findings(measurement: Measurement, datasheet: Datasheet | None = None) -> list[Finding]:
    """Return all that is wrong with a record, window by window."""
    found: list[Finding] = []
    for window in measurement.windows:
        if window.outcome != "ok":
            continue
        for limit in _AGAINST_A_DATASHEET:
            found += limit(measurement, window, datasheet)
        for check in _OF_THE_RECORD:
            found += check(measurement, window)
        if window.name in _TIMED:
            for doubt in _DOUBTS:
                found += doubt(measurement, window)
    return found + suspicion.settled_at_start(measurement)


def judge(measurement: Measurement, datasheet: Datasheet | None = None) -> Measurement:
    """Return the record with its cautions; one that holds an impossible figure becomes `invalid`.

    A trial that had ended otherwise (`oom` after some windows, say) keeps its outcome, but gets the codes: analysis
    counts no record with `invalid_codes`. Judging twice changes nothing.

    Args:
        measurement: as the runner put it together.
        datasheet: the maker's figures for one device, or None; then exceeding what was calibrated is suspicious only.
    """
    found = findings(measurement, datasheet)
    proofs = [finding for finding in found if finding.invalid]
    cautions = dict.fromkeys((*measurement.cautions, *suspicion.as_cautions(found)))
    codes = dict.fromkeys((*measurement.invalid_codes, *(finding.code for finding in proofs)))
    outcome, reason = measurement.outcome, measurement.reason
    if proofs and outcome == "ok":
        outcome, reason = "invalid", "; ".join(finding.text for finding in proofs)
    return msgspec.structs.replace(
        measurement, outcome=outcome, reason=reason, invalid_codes=tuple(codes), cautions=tuple(cautions)
    )
