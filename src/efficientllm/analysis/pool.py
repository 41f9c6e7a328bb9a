"""Records of several studies together: which may be compared, whose each is, and what keeps them apart."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations, product

from msgspec.structs import replace

from efficientllm.analysis.asked import Asked
from efficientllm.analysis.comparable import differences, said
from efficientllm.analysis.group import Group, groups, stages_of
from efficientllm.analysis.select import counts, select
from efficientllm.errors import UnknownNameError, UserError
from efficientllm.records.measurement import Measurement

#: At most so many pairs of groups are held against each other to find the nearest.
_MOST_PAIRS = 400


#: Study, id -> the whole record, or why there is none.
Whole = Callable[[str, str], Measurement | str]


class Pool:
    """Records of some studies.

    Args:
        studies: study -> all its records. A record that several studies hold counts once. They may be outlines,
            without series, where `whole` is given.
        problems: files that could not be read, each with its reason.
        whole: study and id of an outline -> the record with its series, or why it cannot be read after all.
    """

    def __init__(
        self, studies: Mapping[str, Sequence[Measurement]], problems: Sequence[str] = (), whole: Whole | None = None
    ) -> None:
        self._studies: dict[str, dict[str, None]] = {}
        by_id: dict[str, Measurement] = {}
        for study, records in studies.items():
            for record in records:
                self._studies.setdefault(record.id, {})[study] = None
                by_id.setdefault(record.id, record)
        self.names = tuple(studies)
        self.selection = select(list(by_id.values()))
        self.records = self.selection.records
        self._problems = dict.fromkeys(problems)
        self._whole = whole
        self._filled: tuple[int, Group] | None = None
        self.every = groups(self.records)
        self.stages = stages_of(self.records)
        self._trials = {record.trial.id: record.trial for record in self.records}
        self._asked: dict[int, list[Group]] = {}

    @property
    def left_out(self) -> tuple[str, ...]:
        """Return what does not count: files that could not be read, and records that others replace or that failed."""
        return (*self._problems, *self.selection.left_out)

    def filled(self, group: Group) -> Group:
        """Return a group with its records' series; the last one is kept, since its windows follow each other.

        What cannot be read as a whole after all is left out, and said among `left_out`.
        """
        if self._whole is None:
            return group
        if self._filled is None or self._filled[0] != id(group):
            rows = {axes: self._wholes(records) for axes, records in group.rows.items()}
            kept = {axes: records for axes, records in rows.items() if records}
            self._filled = (id(group), Group(stage=group.stage, split=group.split, rows=kept))
        return self._filled[1]

    def _wholes(self, outlines: Sequence[Measurement]) -> tuple[Measurement, ...]:
        assert self._whole is not None
        found = []
        for outline in outlines:
            study = self.studies_of([outline.id])[0]
            whole = self._whole(study, outline.id)
            if isinstance(whole, str):
                self._problems[f"{study}/{whole}"] = None
            else:
                found.append(replace(whole, trial=outline.trial))  # its round may have another number here
        return tuple(found)

    def studies_of(self, ids: Iterable[str]) -> tuple[str, ...]:
        """Return which studies hold these records, in the order in which they were named."""
        found = {study for one in ids for study in self._studies.get(one, ())}
        return tuple(name for name in self.names if name in found)

    def groups(self, asked: Asked) -> list[Group]:
        """Return the groups that were asked for.

        Raises:
            UserError: there is no such stage or row; or rows, or studies, were named that no group holds together.
        """
        if id(asked) not in self._asked:
            self._asked[id(asked)] = self._chosen(asked)
        return self._asked[id(asked)]

    def apart(self, chosen: Sequence[Group], group: Group) -> str:
        """Say in what a group differs from the one before it that measured the same work; empty for the first."""
        workload = group.records()[0].trial.settings_workload()
        before = [g for g in chosen[: chosen.index(group)] if g.records()[0].trial.settings_workload() == workload]
        if not before:
            return ""
        return f"not comparable with {self._name(before[-1])} above: {self._difference(before[-1], group)}"

    def _chosen(self, asked: Asked) -> list[Group]:
        stages = list(dict.fromkeys(group.stage for group in self.every))
        if asked.stage and asked.stage not in stages:
            raise UnknownNameError("stage", asked.stage, stages, where=" and ".join(self.names))
        found = [group for group in self.every if asked.stage in ("", group.stage)]
        if asked.rows:
            found = self._with_rows(found, asked.rows)
        elif len(self.names) > 1:
            self._refuse_strangers(found)
        return found

    def _refuse_strangers(self, found: Sequence[Group]) -> None:
        """Refuse several studies of which no two meet in any group."""
        together = [self.studies_of(record.id for record in group.records()) for group in found]
        if found and all(len(studies) < 2 for studies in together):
            pairs = ((a, b) for (a, i), (b, j) in product(zip(found, together, strict=True), repeat=2) if i < j)
            raise UserError(f"{' and '.join(self.names)}: nothing in them may be compared. {self._nearest(pairs)}")

    def _with_rows(self, found: Sequence[Group], rows: Sequence[str]) -> list[Group]:
        """Return the groups that hold all the rows named, with these rows alone."""
        known = sorted({records[0].trial.technique() for group in found for records in group.rows.values()})
        holders: dict[str, list[Group]] = {}
        for row in rows:
            holders[row] = [narrowed for group in found if (narrowed := self._only(group, [row])) is not None]
            if not holders[row]:
                raise UnknownNameError("row", row, known, where=" and ".join(self.names))
        whole = [self._only(group, rows) for group in found]
        together = [group for group in whole if group is not None and self._holds(group, rows)]
        if not together:
            strangers = [pair for pair in combinations(rows, 2) if not self._meet(found, pair)]
            if not strangers:
                raise UserError(f"{', '.join(rows)} never stand in one group: rank them two by two.")
            one, other = strangers[0]
            pairs = product(holders[one], holders[other])
            raise UserError(f"{one} and {other} may not be compared. {self._nearest(pairs)}")
        return together

    def _meet(self, found: Sequence[Group], rows: Sequence[str]) -> bool:
        return any(self._holds(group, rows) for group in found)

    def _holds(self, group: Group, rows: Sequence[str]) -> bool:
        return all(self._only(group, [row]) is not None for row in rows)

    def _only(self, group: Group, rows: Sequence[str]) -> Group | None:
        """Return a group with these rows alone, each a technique or STUDY/TECHNIQUE; None where none is in it."""
        kept = {axes: records for axes, records in group.rows.items() if any(self._is(records, row) for row in rows)}
        return Group(stage=group.stage, split=group.split, rows=kept) if kept else None

    def _is(self, records: Sequence[Measurement], row: str) -> bool:
        technique = records[0].trial.technique()
        return row == technique or row in {f"{s}/{technique}" for s in self.studies_of(r.id for r in records)}

    def _nearest(self, pairs: Iterable[tuple[Group, Group]]) -> str:
        """Say in what the two groups differ that differ least."""
        found = []
        for (one, other), _ in zip(pairs, range(_MOST_PAIRS), strict=False):
            differing = differences(_first(one), _first(other), self._trials)
            far = "workload" in differing
            found.append(
                ((far, len(differing)), f"{self._name(one)} and {self._name(other)} differ in {said(differing)}.")
            )
        return min(found, key=lambda pair: pair[0])[1] if found else ""

    def _difference(self, one: Group, other: Group) -> str:
        differing = differences(_first(one), _first(other), self._trials)
        split = {f"axes.{key}": (value, dict(other.split).get(key, "–")) for key, value in one.split}
        differing |= {key: values for key, values in split.items() if values[0] != values[1]}
        return said(differing)

    def _name(self, group: Group) -> str:
        studies = self.studies_of(record.id for record in group.records())
        return group.stage if len(self.names) == 1 else f"{group.stage} of {' and '.join(studies)}"


def _first(group: Group) -> Measurement:
    """Return a record that stands for its group: one that counts, so that it says of its data too."""
    return next((record for record in group.records() if counts(record)), group.records()[0])
