"""Two sides compared: which rows measured the same, how they differ, and what of it breaks a limit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace

from efficientllm.analysis.catalogue import entries
from efficientllm.analysis.comparison import ComparisonTable, Difference, Ended, SideFacts, Unmatched
from efficientllm.analysis.comparison_figures import How, differences
from efficientllm.analysis.comparison_match import match
from efficientllm.analysis.comparison_rows import ended, shared_windows
from efficientllm.analysis.comparison_side import Side, SideRow
from efficientllm.analysis.comparison_transfer import conclusions
from efficientllm.analysis.comparison_words import difference_words, sentences
from efficientllm.analysis.select import counts
from efficientllm.errors import UnknownNameError, UserError, did_you_mean
from efficientllm.records.measurement import Measurement
from efficientllm.records.settings import choices_of

#: Conditions by which quality was judged on another text.
_TEXT = ("data.", "corpus", "instructions")


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the user asks of a comparison.

    Attributes:
        metrics: keys of those that are compared, `all`, or none for one of each kind.
        stages: the stages that are compared, or none for all.
        across: conditions that may differ.
        fail_over: largest ratio by which b may be worse, or None.
    """

    metrics: tuple[str, ...] = ()
    stages: tuple[str, ...] = ()
    across: tuple[str, ...] = ()
    fail_over: float | None = None


def compare_sides(a: Side, b: Side, options: Options) -> ComparisonTable:
    """Compare two sides; `b` is judged against `a`.

    Raises:
        UserError: an unknown metric or stage, or sides that may not be compared, with what differs.
    """
    _refuse_unknown_metrics(options.metrics)
    a, b = (_of_stages(side, options.stages) for side in (a, b))
    matched = match(a, b, options.across)
    same = _same_hardware(matched.pairs)
    windows, alone = shared_windows(matched.pairs, options.metrics, options.across, same)
    differing = {key: pair for one, other in matched.pairs for key, pair in one.differs(other).items()}
    differing.pop("machine", None)
    how = How(
        same_hardware=same,
        other_text=any(key.startswith(_TEXT) for key in differing),
        other_work=not same and bool(differing) and not options.metrics,
    )
    figures, without = differences(windows, how, options.fail_over)
    gone = (*(one for shared in windows for one in ended(shared)), *alone)
    table = ComparisonTable(
        a=_facts(a),
        b=_facts(b),
        same_hardware=same,
        environment=_environment(matched.pairs),
        across=options.across,
        fail_over=options.fail_over,
        regressions=_regressions(figures, gone, matched.unmatched) if options.fail_over is not None else (),
        differences=figures,
        ended=gone,
        unmatched=matched.unmatched,
        conclusions=conclusions(windows),
        not_compared=without,
        notes=_notes(a, b, matched.pairs, differing),
    )
    return replace(table, verdict=sentences(table))


def _refuse_unknown_metrics(wanted: Sequence[str]) -> None:
    known = [entry.column.key for entry in entries() if entry.column.better]
    for key in wanted:
        if key not in (*known, "all"):
            raise UnknownNameError("metric", key, known, where="--metric")


def _of_stages(side: Side, wanted: Sequence[str]) -> Side:
    if not wanted:
        return side
    known = list(dict.fromkeys(row.identity[0] for row in side.rows))
    for stage in wanted:
        if stage not in known:
            listed = ", ".join(known)
            raise UserError(f"{side.name} has no stage {stage!r}. {did_you_mean(stage, known)}It has: {listed}.")
    rows = tuple(row for row in side.rows if row.identity[0] in wanted)
    records = tuple(record for row in rows for record in row.records)
    return Side(name=side.name, records=records, rows=rows, problems=side.problems)


def _records(pairs: Sequence[tuple[SideRow, SideRow]], side: int) -> list[Measurement]:
    return [record for pair in pairs for record in pair[side].records]


def _same_hardware(pairs: Sequence[tuple[SideRow, SideRow]]) -> bool:
    """Return whether both sides used the same devices, whatever the software on them."""
    machines = [{record.environment.machine_id for record in _records(pairs, side)} for side in (0, 1)]
    devices = [{d.uuid for r in _records(pairs, side) for d in r.environment.devices} for side in (0, 1)]
    return machines[0] == machines[1] or (devices[0] == devices[1] and "" not in devices[0])


def _told(records: Sequence[Measurement]) -> dict[str, str]:
    """Return what a side was measured on and with; the values of several, joined."""
    found: dict[str, dict[str, None]] = {}
    for record in records:
        environment = record.environment
        said = {
            "device": ", ".join(device.name for device in environment.devices),
            "driver": ", ".join(dict.fromkeys(device.driver for device in environment.devices)),
            "threads": str(environment.threads or ""),
            "python": environment.python,
            **environment.libraries,
            "efficientllm": record.software_version,
            "commit": environment.git_commit[:12] + (" (dirty)" if environment.git_dirty else ""),
            "machine": environment.machine_id,
            **_own_files(record),
        }
        for key, value in said.items():
            if value:
                found.setdefault(key, {})[value] = None
    return {key: " and ".join(sorted(values)) for key, values in found.items()}


def _own_files(record: Measurement) -> dict[str, str]:
    """Return the user's own files that a record was measured with, each with the beginning of its hash."""
    settings: Any = record.trial.settings
    choices = [one for field in settings.__struct_fields__ for one in choices_of(getattr(settings, field))]
    return {f"{one.name}.py": one.sha256[:8] for one in choices if one.sha256}


def _facts(side: Side) -> SideFacts:
    return SideFacts(name=side.name, measurements=len(side.records), environment=_told(side.records))


def _environment(pairs: Sequence[tuple[SideRow, SideRow]]) -> dict[str, tuple[str, str]]:
    a, b = (_told(_records(pairs, side)) for side in (0, 1))
    return {key: (a.get(key, "-"), b.get(key, "-")) for key in (a | b) if a.get(key) != b.get(key)}


def _notes(
    a: Side, b: Side, pairs: Sequence[tuple[SideRow, SideRow]], differing: Mapping[str, tuple[str, str]]
) -> tuple[str, ...]:
    notes = [f"{side.name}: {problem}" for side in (a, b) for problem in side.problems]
    if differing:
        told = ", ".join(f"{key} {first} / {second}" for key, (first, second) in differing.items())
        notes.append(f"let differ (A / B): {told}")
    same = sum(bool(one.measured() & other.measured()) for one, other in pairs)
    if same:
        notes.append(f"{same} of {len(pairs)} rows share measurements: these differ by nothing")
    failed = [sum(not counts(record) for record in _records(pairs, side)) for side in (0, 1)]
    if any(failed):
        notes.append(f"records that do not count (not ok, or invalid): {failed[0]} of A, {failed[1]} of B")
    codes = [Counter(code for r in _records(pairs, side) for code in {c.code for c in r.cautions}) for side in (0, 1)]
    if told := ", ".join(f"{code} {codes[0][code]} / {codes[1][code]}" for code in sorted(codes[0] | codes[1])):
        notes.append(f"cautions (records of A / of B; the studies' tables say what they mean): {told}")
    return tuple(notes)


def _regressions(
    figures: Sequence[Difference], gone: Sequence[Ended], unmatched: Sequence[Unmatched]
) -> tuple[str, ...]:
    broken = [f"{difference_words(one)}" for one in figures if one.limit == "fails"]
    lost = [
        f"{one.stage} {one.technique}, {one.window}: ok in A, {one.outcome_b} in B ({one.reason})"
        for one in gone
        if one.regression
    ]
    missing = [f"{', '.join(one.rows)}: measured in A, no such row in B" for one in unmatched if one.side == "a"]
    return (*broken, *lost, *missing)
