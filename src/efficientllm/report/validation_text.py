"""What a validation says: one line for each check and submission, and below it what was found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from efficientllm.validity.validate import INTEGRITY, CheckResult, Validation

#: So many findings of one check are printed; `--json` has all.
_MOST_FINDINGS = 5
_WORDS = {"ok": "ok", "told": "ok", "skipped": "–", "refused": "REFUSED"}


def lines(validations: Sequence[Validation]) -> Iterator[str]:
    """Yield the lines of some validations, the word on each submission last, and what it means."""
    for validation in validations:
        submission = validation.submission
        yield f"{submission.name}: {submission.kind} of {len(submission.records)} measurement(s)"
        for result in validation.results:
            yield from _check(result)
    yield ""
    yield from (verdict(validation) for validation in validations)
    yield INTEGRITY


def verdict(validation: Validation) -> str:
    """Return one line on one submission."""
    refused = [result.check for result in validation.results if result.refused]
    word = "valid" if validation.valid else f"REFUSED by {', '.join(refused)}"
    return f"{validation.submission.name}: {word}"


def _check(result: CheckResult) -> Iterator[str]:
    yield f"  {_WORDS[result.status]:<8}{result.check:<14}{result.skipped or result.title}"
    ordered = sorted(result.faults, key=lambda fault: not fault.refused)
    for fault in ordered[:_MOST_FINDINGS]:
        yield f"          {'refused' if fault.refused else 'told'}: {fault.where}: {fault.why}"
    if len(ordered) > _MOST_FINDINGS:
        yield f"          … and {len(ordered) - _MOST_FINDINGS} more; --json lists all"


def plain(validations: Sequence[Validation]) -> dict[str, Any]:
    """Return some validations as JSON takes them."""
    return {
        "valid": all(validation.valid for validation in validations),
        "means": INTEGRITY,
        "submissions": [
            {
                "name": validation.submission.name,
                "kind": validation.submission.kind,
                "measurements": len(validation.submission.records),
                "valid": validation.valid,
                "checks": [_plain_check(result) for result in validation.results],
            }
            for validation in validations
        ],
    }


def _plain_check(result: CheckResult) -> dict[str, Any]:
    findings = [{"where": f.where, "why": f.why, "refused": f.refused} for f in result.faults]
    return {"check": result.check, "status": result.status, "skipped": result.skipped, "findings": findings}
