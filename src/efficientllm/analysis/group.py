"""Groups of records that may be compared: equal in all but the axes of their recipe."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from efficientllm.analysis.select import counts
from efficientllm.errors import UserError
from efficientllm.records.choice import Choice
from efficientllm.records.measurement import Measurement
from efficientllm.records.model_settings import ModelSettings
from efficientllm.records.preset import OPEN, fill_slots
from efficientllm.records.serve_settings import ServeSettings
from efficientllm.records.settings import InferenceSettings, VerifySettings
from efficientllm.records.training_settings import TrainingSettings
from efficientllm.records.trial import Trial
from efficientllm.units import count_text

#: Windows that are no section of their own: they are read from within the others, or reported apart.
_NOT_COMPARED = ("load", "idle", "quality", "curve", "search", "forgetting_before", "forgetting_after")
#: … and those of each text and each set of questions: see `by_text`.
_OF_QUALITY = ("quality_", "task_")

#: What a user calls a loop of his own is its technique, no condition.
_LOOP_NAME = "name"

Axes = tuple[tuple[str, str], ...]
#: Name and coordinates of a window.
Point = tuple[str, tuple[tuple[str, int], ...]]


@dataclass(frozen=True, kw_only=True)
class Group:
    """Records of one stage on one machine that differ in their axes and repeats only.

    Attributes:
        stage: the recipe's stage.
        split: axes that part this group from its siblings, because each of their values has a baseline of its own.
        rows: axes -> records, in the order of first appearance, the baseline first.
    """

    stage: str
    split: Axes
    rows: dict[Axes, tuple[Measurement, ...]]

    def baseline(self) -> Axes | None:
        """Return the axes of the row that the recipe names as the baseline, or None."""
        return next((axes for axes, records in self.rows.items() if records[0].trial.baseline), None)

    def records(self) -> list[Measurement]:
        """Return all records of the group."""
        return [record for records in self.rows.values() for record in records]


def groups(records: Sequence[Measurement]) -> list[Group]:
    """Part records into groups: parents' stages before those that take their artifacts, else as they appear."""
    keyed: dict[bytes, list[Measurement]] = {}
    for record in records:
        keyed.setdefault(_key(record), []).append(record)
    found = [group for members in _with_their_data(list(keyed.values())) for group in _split(members)]
    depth = _depths(records)
    return sorted(found, key=lambda group: depth[group.stage])


def key_across_machines(record: Measurement) -> bytes:
    """Return what records of several machines must share to stand beside each other: all that a group does but that."""
    environment = msgspec.structs.replace(record.environment, machine_id="")
    return _key(msgspec.structs.replace(record, environment=environment))


def parent_stage(group: Group, records: Sequence[Measurement]) -> str:
    """Return the stage whose artifacts a group's trials take, empty where there is none among the records."""
    parents = {record.trial.parent for record in group.records()}
    return next((record.trial.stage for record in records if record.trial.id in parents), "")


def points(group: Group) -> list[Point]:
    """Return the windows of a group: those that its settings ask for and those that were seen, in their order.

    Of a verification its errors alone: its training and decode windows are of one step, to show that there is one.
    """
    found: dict[Point, None] = {}
    for record in group.records():
        settings = record.trial.settings
        if isinstance(settings, InferenceSettings):
            for name, grids in (
                ("prefill", settings.prefill),
                ("decode", settings.decode),
                ("generate", settings.generate),
            ):
                found |= {(name, tuple(sorted(grid.coordinates().items()))): None for grid in grids}
        elif isinstance(settings, ServeSettings):
            found |= {("serve", tuple(sorted(load.coordinates().items()))): None for load in settings.loads}
        elif isinstance(settings, TrainingSettings):
            found[("train", ())] = None
        elif isinstance(settings, VerifySettings):
            found[("verify", ())] = None
            continue
        seen = [w for w in record.windows if w.name not in _NOT_COMPARED and not w.name.startswith(_OF_QUALITY)]
        found |= {(w.name, tuple(sorted(w.coordinates.items()))): None for w in seen}
    names = list(dict.fromkeys(name for name, _ in found))
    return sorted(found, key=lambda point: (names.index(point[0]), [value for _, value in point[1]]))


def conditions(group: Group) -> dict[str, str]:
    """Return what all rows of a group share, for a section's heading."""
    record = next((r for r in group.records() if counts(r)), group.records()[0])
    trial, devices = record.trial, record.environment.devices
    settings: Any = trial.settings
    axes = {key for key, _ in next(iter(group.rows))}
    said = dict(group.split)
    said["workload"] = trial.settings_workload()
    shared = {
        "model": "size",
        "corpus": "corpus",
        "instructions": "instructions",
        "base precision": "base_precision",
        "dtype": "dtype",
        "engine": "engine",
        "precision": "precision",
        "cache": "cache",
    }
    for word, field in shared.items():
        value = getattr(settings, field, None)
        if value is not None and field not in axes:
            said[word] = value.label() if hasattr(value, "label") else str(value)
    if isinstance(settings, TrainingSettings):
        said["tokens"] = f"{count_text(settings.tokens)} in steps of {_step_text(settings)}"
    if trial.selected is not None:
        said[trial.selected.over] = f"chosen after {trial.selected.stage}"
    said["device"] = ", ".join(device.name for device in devices)
    said["protocol"] = trial.protocol.name
    said["machine"] = record.environment.machine_id
    return said


def _step_text(settings: TrainingSettings) -> str:
    return f"{settings.rows_per_step} × {settings.sequence_tokens}"


def _key(record: Measurement) -> bytes:
    trial = record.trial
    chosen = {trial.selected.over: trial.selected.value} if trial.selected else {}
    settings = _without(msgspec.to_builtins(trial.settings), {**trial.axes, **chosen})
    settings = {key: value for key, value in settings.items() if key not in _filled(trial)}
    parts = [trial.stage, settings, record.environment.machine_id, msgspec.to_builtins(trial.protocol),
             trial.protocol_version, sorted(trial.axes)]  # fmt: skip
    data = record.data and (
        record.data.corpus_sha256, record.data.tokenizer_sha256, record.data.details.get("samples_sha256", ""),
        *(told for key, told in sorted(record.data.details.items()) if key.startswith("domain_")),
    )  # fmt: skip
    return msgspec.json.encode([parts, data], order="deterministic")


def _filled(trial: Trial) -> set[str]:
    """Return the slots that hold what the axes' own values put there: part of the lever, no condition beside it.

    A mixer that keeps positions itself comes with none, where others come with rope: both stand in one section.
    """
    settings = trial.settings
    if not isinstance(settings, ModelSettings):
        return set()
    slots = ("mixer", "position", "mlp")
    chosen = {slot: getattr(settings, slot) if slot in trial.axes else OPEN for slot in slots}
    try:
        filled = _filling(settings.size, msgspec.json.encode([settings.preset, chosen]))
    except UserError:  # a preset of its author's own, which is not here
        return set()
    return {slot for slot in slots if slot not in trial.axes and getattr(settings, slot) == filled[slot]}


@functools.lru_cache(maxsize=1024)
def _filling(size: str, chosen: bytes) -> dict[str, Choice]:
    """Return what `fill_slots` puts into the slots; cached, since it reads entry files and records are many."""
    preset, slots = msgspec.json.decode(chosen, type=tuple[Choice, dict[str, Choice]])
    return fill_slots(size, preset, slots)


def _without(settings: dict[str, Any], axes: dict[str, str]) -> dict[str, Any]:
    """Take out what the axes set (`mixer`, `shape.num_kv_heads`) and the path of a user's file."""
    left = {key: value for key, value in settings.items() if key not in (*axes, _LOOP_NAME)}
    for axis in axes:
        head, _, rest = axis.partition(".")
        if rest and isinstance(left.get(head), dict):
            left[head] = {key: value for key, value in left[head].items() if key != rest}
    return {key: _pathless(value) for key, value in left.items()}


def _pathless(value: Any) -> Any:
    return {**value, "path": ""} if isinstance(value, dict) and "sha256" in value else value


def _with_their_data(parted: list[list[Measurement]]) -> list[list[Measurement]]:
    """Put records that ended before their text was read to the records they would have been compared with."""
    whole = [members for members in parted if members[0].data is not None]
    keys = [_key(msgspec.structs.replace(members[0], data=None)) for members in whole]
    for members in parted:
        if members[0].data is None:
            key = _key(members[0])
            if key in keys:
                whole[keys.index(key)].extend(members)
            else:
                whole.append(members)
    return whole


def _split(members: list[Measurement]) -> list[Group]:
    """Part a group whose baseline occurs with several values of other axes: one lever at a time."""
    rows: dict[Axes, list[Measurement]] = {}
    for record in members:
        rows.setdefault(tuple(record.trial.axes.items()), []).append(record)
    baselines = [dict(axes) for axes, records in rows.items() if records[0].trial.baseline]
    differing = sorted({key for one in baselines for key in one if any(one[key] != b.get(key) for b in baselines)})
    parts: dict[Axes, dict[Axes, tuple[Measurement, ...]]] = {}
    for axes, records in sorted(rows.items(), key=lambda row: not row[1][0].trial.baseline):
        split = tuple((key, dict(axes)[key]) for key in differing)
        parts.setdefault(split, {})[axes] = tuple(sorted(records, key=lambda r: r.trial.repeat))
    stage = members[0].trial.stage or members[0].trial.settings_workload()
    return [Group(stage=stage, split=split, rows=part) for split, part in parts.items()]


def _depths(records: Sequence[Measurement]) -> dict[str, int]:
    """Return how many stages' artifacts a stage stands on."""
    by_id = {record.trial.id: record.trial for record in records}
    depths: dict[str, int] = {}
    for record in records:
        trial, depth = record.trial, 0
        while trial.parent:
            depth += 1
            if trial.parent not in by_id:
                break
            trial = by_id[trial.parent]
        stage = record.trial.stage or record.trial.settings_workload()
        depths[stage] = max(depth, depths.get(stage, 0))
    return depths
