"""Judged again from the stored series and ceilings: what is impossible is marked so, and what is marked is."""

from __future__ import annotations

from collections.abc import Iterator

from efficientllm.physics.finding import Datasheet, Finding
from efficientllm.physics.judge import findings
from efficientllm.records.measurement import Ceilings, Measurement
from efficientllm.records.protocol import PROTOCOL_VERSION
from efficientllm.validity._contract import CheckEntry, Fault
from efficientllm.validity.submission import Submission

#: Outcomes whose records are judged before they are stored.
_JUDGED = ("ok", "invalid", "oom", "unsupported", "diverged")


def _look(submission: Submission) -> Iterator[Fault]:
    for record in submission.records:
        measurement = record.measurement
        sheet = submission.datasheet(measurement.environment.devices[0])
        if measurement.outcome in _JUDGED:
            yield from _judged_again(record.name, measurement, findings(measurement, sheet))
        if measurement.ceilings is not None and sheet is not None:
            yield from _ceilings(record.name, measurement.ceilings, sheet)


def _judged_again(where: str, measurement: Measurement, found: list[Finding]) -> Iterator[Fault]:
    codes, proofs = set(measurement.invalid_codes), [finding for finding in found if finding.invalid]
    for finding in proofs:
        if finding.code not in codes:
            yield Fault(where=where, why=f"{finding.code}: {finding.text}; the record does not say so")
    if measurement.outcome == "ok" and codes:
        yield Fault(where=where, why=f"is marked ok and has the codes {', '.join(sorted(codes))} of what is impossible")
    for code in sorted(codes - {finding.code for finding in proofs}):
        yield Fault(where=where, why=f"is marked invalid for {code}, of which its figures show no cause", refused=False)
    if measurement.outcome == "invalid" and not codes:
        yield Fault(where=where, why=f"was marked invalid by its workload: {measurement.reason}", refused=False)
    cautions = {caution.code for caution in measurement.cautions}
    for finding in found:
        if not finding.invalid and finding.code not in cautions:
            current = measurement.trial.protocol_version == PROTOCOL_VERSION
            why = f"{finding.code}: {finding.text}; the record does not warn of it"
            yield Fault(where=where, why=why, refused=current)


def _ceilings(where: str, ceilings: Ceilings, sheet: Datasheet) -> Iterator[Fault]:
    """No ceiling was measured above what the maker promises, but for clocks above the datasheet's."""
    for dtype, rate in ceilings.matmul_peak_flop_per_s.items():
        most = sheet.flop_per_s.get(dtype, 0.0) * (1.15 if sheet.boost_clock_hz else 1.0)
        if 0 < most < rate:
            yield Fault(where=where, why=f"its ceiling of {rate:.3g} FLOP/s in {dtype} is above the datasheet's")
    for name in ("read_bytes_per_s", "copy_bytes_per_s"):
        rate = getattr(ceilings, name)
        if 0 < sheet.bytes_per_s < rate:
            yield Fault(where=where, why=f"its ceiling {name} of {rate:.3g} is above the datasheet's bandwidth")


ENTRY = CheckEntry(title="judged again, each record is what it says", order=40, look=_look)
