"""Which rows of two sides measured the same thing, and in what the others differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from efficientllm.analysis.comparison import Unmatched
from efficientllm.analysis.comparison_side import Identity, Side, SideRow
from efficientllm.errors import UserError

#: Lets every condition differ.
ALL = "all"
#: Lets a window's coordinates (batch, tokens) differ.
WINDOW = "window"
#: These the user cannot let differ.
_NEVER = ("protocol_version", "machine")
#: Beginnings of conditions that a record may not know: it ended before its text was read, or stands alone in a file.
_UNKNOWN = ("data.", "from.")
_MOST_NAMED = 6
_Key = tuple[Identity, tuple[tuple[str, str], ...]]


@dataclass(frozen=True, kw_only=True)
class Matched:
    """Pairs of rows, and what has no partner."""

    pairs: tuple[tuple[SideRow, SideRow], ...]
    unmatched: tuple[Unmatched, ...]


def match(a: Side, b: Side, across: Sequence[str] = ()) -> Matched:
    """Pair the rows of two sides that are equal in all but what may differ.

    Args:
        a: one side.
        b: the other.
        across: conditions that may differ, or the beginning of several (`data` for `data.corpus`); `all` for every one.

    Raises:
        UserError: other versions of the protocol, machines that cannot be told apart, rows that become one, or nothing
            that could be compared; each with the keys that differ.
    """
    _refuse_versions(a, b)
    free = _free_machine(a, b)
    in_a, in_b = (_keyed(side, across, free) for side in (a, b))
    pairs = [(in_a.pop(key), in_b.pop(key)) for key in list(in_a) if key in in_b]
    pairs += _of_unknown(in_a, in_b)
    same = [one for one, other in pairs if one.measured() == other.measured()]
    if len(same) == len(pairs) > 0:
        raise UserError(f"{a.name} and {b.name} are the same measurements. Give two that differ.")
    left_a, left_b = list(in_a.values()), list(in_b.values())
    unmatched = (*_unmatched("a", left_a, left_b, free, across), *_unmatched("b", left_b, left_a, free, across))
    if not pairs:
        raise UserError(_nothing(a, b, unmatched))
    return Matched(pairs=tuple(pairs), unmatched=unmatched)


def may_differ(key: str, across: Sequence[str]) -> bool:
    """Return whether the user let a condition differ.

    >>> may_differ("data.corpus", ["data"]), may_differ("dtype", ["data"]), may_differ("dtype", ["all"])
    (True, False, True)
    """
    return key not in _NEVER and any(word == ALL or key == word or key.startswith(f"{word}.") for word in across)


def _refuse_versions(a: Side, b: Side) -> None:
    versions = [{record.trial.protocol_version for record in side.records} for side in (a, b)]
    if not versions[0] & versions[1]:
        said = [" and ".join(map(str, sorted(found))) for found in versions]
        raise UserError(
            f"{a.name} was measured by protocol_version {said[0]}, {b.name} by {said[1]}: other rules give other "
            "figures (CHANGELOG, `Changes the numbers`). Measure both by the same version."
        )


def _free_machine(a: Side, b: Side) -> bool:
    """Return whether the machine may differ: each side has one; else the machines that both have are compared."""
    machines = [side.machines() for side in (a, b)]
    if all(len(found) == 1 for found in machines):
        return True
    if set(machines[0]) & set(machines[1]):
        return False
    many = a.name if len(machines[0]) > 1 else b.name
    ids = machines[0] if len(machines[0]) > 1 else machines[1]
    raise UserError(f"{many} holds {len(ids)} machines: say which, {' or '.join(f'{many}@machine:{i}' for i in ids)}.")


def _keyed(side: Side, across: Sequence[str], free_machine: bool) -> dict[_Key, SideRow]:
    found: dict[_Key, SideRow] = {}
    for row in side.rows:
        held = [(k, v) for k, v in row.conditions.items() if not may_differ(k, across) and _holds(k, free_machine)]
        key = (row.identity, tuple(sorted(held)))
        if key in found:
            differs = found[key].differs(row)
            raise UserError(
                f"{side.name} holds {row.label()} more than once, with {_said(differs)}: these may not be let differ. "
                "Leave them out of --across, or choose with --stage."
            )
        found[key] = row
    return found


def _of_unknown(in_a: dict[_Key, SideRow], in_b: dict[_Key, SideRow]) -> list[tuple[SideRow, SideRow]]:
    """Take out pairs of which one does not know some of its conditions, and which are equal in all that both know."""
    found = []
    for one in list(in_a):
        near = [other for other in in_b if other[0] == one[0] and _equal_where_known(dict(one[1]), dict(other[1]))]
        if len(near) == 1:
            found.append((in_a.pop(one), in_b.pop(near[0])))
    return found


def _equal_where_known(a: Mapping[str, str], b: Mapping[str, str]) -> bool:
    unknown = [word for word in _UNKNOWN if not all(any(key.startswith(word) for key in held) for held in (a, b))]
    known = [{k: v for k, v in held.items() if not k.startswith(tuple(unknown))} for held in (a, b)]
    return bool(unknown) and known[0] == known[1]


def _holds(key: str, free_machine: bool) -> bool:
    return not (key == "machine" and free_machine)


def _unmatched(
    side: str, rows: Sequence[SideRow], others: Sequence[SideRow], free: bool, across: Sequence[str]
) -> list[Unmatched]:
    """Group what has no partner by the conditions in which it differs from the nearest row of the other side."""
    grouped: dict[tuple[tuple[str, tuple[str, str]], ...], list[str]] = {}
    for row in rows:
        near = [row.differs(other) for other in others if other.identity == row.identity]
        held = [{k: v for k, v in found.items() if not may_differ(k, across) and _holds(k, free)} for found in near]
        nearest = min(held, key=len, default={})
        grouped.setdefault(tuple(nearest.items()), []).append(row.label())
    return [
        Unmatched(side=side, rows=tuple(dict.fromkeys(names)), differs=dict(differs))
        for differs, names in grouped.items()
    ]


def _nothing(a: Side, b: Side, unmatched: Sequence[Unmatched]) -> str:
    differing = next((one for one in unmatched if one.differs), None)
    head = f"no row of {a.name} is measured in {b.name}"
    if differing is None:
        have = [", ".join(dict.fromkeys(row.label() for row in side.rows[:_MOST_NAMED])) for side in (a, b)]
        return f"{head}: {a.name} has {have[0]}; {b.name} has {have[1]}."
    keys = list(dict.fromkeys(key for one in unmatched for key in one.differs))
    return (
        f"{head}: {differing.rows[0]} differs in {_said(differing.differs)}. Measure both alike, or let these differ "
        f"with --across {','.join(keys)} (--across {ALL} for everything but the techniques)."
    )


def _said(differs: Mapping[str, tuple[str, str]]) -> str:
    named = [f"{key} ({a} / {b})" for key, (a, b) in list(differs.items())[:_MOST_NAMED]]
    more = len(differs) - len(named)
    return ", ".join([*named, *([f"{more} more"] if more else [])])
