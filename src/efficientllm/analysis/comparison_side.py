"""One side of a comparison: which records are its own, and what each of its rows is a measurement of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from efficientllm.analysis.select import select
from efficientllm.errors import UserError
from efficientllm.records.measurement import Measurement

#: Settings that are windows, each with coordinates of its own: a grid of more points measures the same at the others.
_GRIDS = ("prefill", "decode", "generate", "loads", "grid")
#: Word before the colon of a selector -> what it reads; any other word is a library.
_SELECTORS: dict[str, Callable[[Measurement], str]] = {
    "machine": lambda m: m.environment.machine_id,
    "commit": lambda m: m.environment.git_commit,
    "software": lambda m: m.software_version,
    "python": lambda m: m.environment.python,
}
#: These are matched by their beginning.
_PREFIXED = ("machine", "commit")

#: Condition -> value, as text.
Conditions = dict[str, str]
#: What a row is, whatever was let differ: stage, and axes with their values.
Identity = tuple[str, tuple[tuple[str, str], ...]]


@dataclass(frozen=True, kw_only=True)
class SideRow:
    """The repeats of one technique under the same conditions."""

    identity: Identity
    conditions: Conditions
    records: list[Measurement] = field(default_factory=list)

    def label(self) -> str:
        """Return stage and technique as a list names them."""
        trial = self.records[0].trial
        return f"{self.identity[0]} {trial.technique()}"

    def measured(self) -> set[tuple[str, str]]:
        """Return which measurements these are: an id occurs again where the same is measured anew."""
        return {(record.id, record.started_at) for record in self.records}

    def differs(self, other: SideRow) -> dict[str, tuple[str, str]]:
        """Return the conditions in which two rows differ, with both values; `-` where one has none."""
        keys = sorted(self.conditions.keys() | other.conditions.keys())
        pairs = {key: (self.conditions.get(key, "-"), other.conditions.get(key, "-")) for key in keys}
        return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


@dataclass(frozen=True, kw_only=True)
class Side:
    """The records of one side.

    Attributes:
        name: as the user gave it.
        records: one for each trial and machine, whatever its outcome.
        rows: in the order in which they were first started.
        problems: what could not be read.
    """

    name: str
    records: tuple[Measurement, ...]
    rows: tuple[SideRow, ...]
    problems: tuple[str, ...] = ()

    def machines(self) -> list[str]:
        """Return the ids of the machines, sorted."""
        return sorted({record.environment.machine_id for record in self.records})


def chosen(found: Mapping[str, Sequence[Measurement]], selector: str) -> dict[str, list[Measurement]]:
    """Return the records that a selector means: `abc123` a git commit, `machine:ID`, `software:0.1.0`, `torch:2.11`.

    Raises:
        UserError: none of them is meant; with the values that there are.
    """
    if not selector:
        return {study: list(records) for study, records in found.items()}
    word, colon, value = selector.partition(":")
    key, value = (word, value) if colon else ("commit", selector)
    kept = {study: [m for m in records if _meant(m, key, value)] for study, records in found.items()}
    if not value or not any(kept.values()):
        there = sorted({_told(m, key) for records in found.values() for m in records} - {""})
        raise UserError(f"no measurement of {key} {value!r}. {_there(key, there)}")
    return kept


def make_side(
    name: str, found: Mapping[str, Sequence[Measurement]], problems: Sequence[str] = (), *, by_study: bool = False
) -> Side:
    """Sort out a side's records and say of each row what it measured.

    Args:
        name: as the user gave it.
        found: study -> records.
        problems: what could not be read.
        by_study: whether the study's name is a condition: both sides hold several.
    """
    rows: dict[tuple[Identity, bytes], SideRow] = {}
    kept: list[Measurement] = []
    for study, records in found.items():
        selection = select(records).records
        kept += selection
        by_id = {record.trial.id: record for record in selection}
        for record in selection:
            identity, conditions = identity_of(record), conditions_of(record, by_id)
            if by_study:
                conditions["study"] = study
            key = (identity, msgspec.json.encode(conditions, order="deterministic"))
            rows.setdefault(key, SideRow(identity=identity, conditions=conditions)).records.append(record)
    return Side(name=name, records=tuple(kept), rows=_with_their_data(list(rows.values())), problems=tuple(problems))


def _with_their_data(rows: Sequence[SideRow]) -> tuple[SideRow, ...]:
    """Put repeats that ended before their text was read to the row that they are repeats of."""
    whole = [row for row in rows if any(key.startswith("data.") for key in row.conditions)]
    for row in rows:
        if row not in whole:
            own = [one for one in whole if one.identity == row.identity and _but_data(one) == row.conditions]
            (own[0].records.extend(row.records) if len(own) == 1 else whole.append(row))
    return tuple(row for row in rows if row in whole)


def _but_data(row: SideRow) -> Conditions:
    return {key: value for key, value in row.conditions.items() if not key.startswith("data.")}


def identity_of(record: Measurement) -> Identity:
    """Return what a record's row is: its stage and its axes; of a user's loop its name."""
    trial = record.trial
    axes = dict(trial.axes) or {"name": trial.technique()}
    return trial.stage or trial.settings_workload(), tuple(sorted(axes.items()))


def conditions_of(record: Measurement, by_id: Mapping[str, Measurement]) -> Conditions:
    """Return all that must be equal on both sides: settings, those of the trials it stands on, protocol, data.

    What the axes and an earlier stage's choice set is no condition, nor is the path or the hash of a user's file: it is
    what is compared.
    """
    found = {**_flat(_settings(record)), **_flat(msgspec.to_builtins(record.trial.protocol), "protocol.")}
    found |= {"machine": record.environment.machine_id, "protocol_version": str(record.trial.protocol_version)}
    parent, depth = by_id.get(record.trial.parent), 1
    while parent is not None:
        own = _flat(_settings(parent), "from." * depth)
        found |= {key: value for key, value in own.items() if found.get(key.removeprefix("from." * depth)) != value}
        parent, depth = by_id.get(parent.trial.parent), depth + 1
    if record.data is not None:
        found |= {"data.corpus": record.data.corpus_sha256[:12], "data.tokenizer": record.data.tokenizer_sha256[:12]}
        details = sorted(record.data.details.items())
        found |= {f"data.{key}": told[:12] for key, told in details if key.startswith(("domain_", "samples_sha256"))}
    return found


def _settings(record: Measurement) -> dict[str, Any]:
    """Return the settings but those of axes, of a choice, and of grids."""
    trial = record.trial
    left: dict[str, Any] = msgspec.to_builtins(trial.settings)
    chosen_by = (trial.selected.over,) if trial.selected else ()
    for path in (*trial.axes, *chosen_by, *_GRIDS, "name"):
        head, _, rest = path.partition(".")
        if rest and isinstance(left.get(head), dict):
            left[head] = {key: value for key, value in left[head].items() if key != rest}
        else:
            left.pop(path, None)
    return left


def _flat(value: Mapping[str, Any], before: str = "") -> Conditions:
    """Return nested mappings as `shape.width` -> text; a choice without options is its name."""
    found: Conditions = {}
    for key, inner in value.items():
        if isinstance(inner, dict) and "path" in inner and "sha256" in inner:
            inner = inner["name"] if not inner["options"] else {k: inner[k] for k in ("name", "options")}
        if isinstance(inner, dict):
            found |= _flat(inner, f"{before}{key}.")
        elif isinstance(inner, str):
            found[f"{before}{key}"] = inner
        else:
            found[f"{before}{key}"] = msgspec.json.encode(inner, order="deterministic").decode()
    return found


def _told(record: Measurement, key: str) -> str:
    read = _SELECTORS.get(key)
    return read(record) if read else record.environment.libraries.get(key, "")


def _meant(record: Measurement, key: str, value: str) -> bool:
    told = _told(record, key)
    return told.startswith(value) if key in _PREFIXED else told == value or told.partition("+")[0] == value


def _there(key: str, there: Sequence[str]) -> str:
    if there:
        short = [value[:12] for value in there] if key in _PREFIXED else there
        return f"There is: {', '.join(short)}."
    words = ", ".join(f"{word}:" for word in _SELECTORS)
    return f"No record tells one; a selector is a git commit or begins with {words} or a library's name (torch:)."
