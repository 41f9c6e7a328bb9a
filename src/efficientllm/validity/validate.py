"""All checks over one submission."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

from efficientllm import catalog, registry
from efficientllm.validity._contract import CheckEntry, Fault
from efficientllm.validity.submission import Submission

#: What a passed validation means, and what it does not; said wherever a result is shown.
INTEGRITY = (
    "Integrity, not authenticity: what is stored is whole, follows from its raw series and breaks no physics. "
    "Who invents consistent raw series passes."
)


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """What one check says of one submission; `skipped` says why it had nothing to look at."""

    check: str
    title: str
    faults: tuple[Fault, ...] = ()
    skipped: str = ""

    @property
    def refused(self) -> tuple[Fault, ...]:
        """Those faults for which the submission is refused."""
        return tuple(fault for fault in self.faults if fault.refused)

    @property
    def status(self) -> str:
        """`refused`, `told` (something to know), `skipped` or `ok`."""
        if self.refused:
            return "refused"
        return "told" if self.faults else "skipped" if self.skipped else "ok"


@dataclass(frozen=True, kw_only=True)
class Validation:
    """What all checks say of one submission."""

    submission: Submission
    results: tuple[CheckResult, ...]

    @property
    def valid(self) -> bool:
        """Whether nothing is refused."""
        return not any(result.refused for result in self.results)

    @property
    def refused(self) -> list[tuple[str, Fault]]:
        """Every fault for which it is refused, with the check that found it."""
        return [(result.check, fault) for result in self.results for fault in result.refused]


@functools.cache
def checks() -> dict[str, CheckEntry]:
    """Return all checks by name, the fundamental ones first.

    >>> list(checks())[:3]
    ['schema', 'hashes', 'ids']
    """
    loaded: dict[str, CheckEntry] = {name: registry.load("check", name) for name in catalog.names("check")}
    return dict(sorted(loaded.items(), key=lambda item: item[1].order))


def validate(submission: Submission) -> Validation:
    """Run every check; one that has nothing to look at says so."""
    results = []
    for name, entry in checks().items():
        skipped = entry.not_applicable(submission)
        faults = () if skipped else tuple(_looked(entry, submission))
        results.append(CheckResult(check=name, title=entry.title, faults=faults, skipped=skipped))
    return Validation(submission=submission, results=tuple(results))


def _looked(entry: CheckEntry, submission: Submission) -> Iterator[Fault]:
    """Yield what a check finds; figures that no arithmetic can be done with are a finding themselves."""
    try:
        yield from entry.look(submission)
    except (ArithmeticError, ValueError) as error:
        why = f"its figures cannot be computed with: {type(error).__name__}: {error}"
        yield Fault(where=submission.name, why=why)
