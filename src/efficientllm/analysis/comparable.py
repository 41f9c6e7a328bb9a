"""What must be equal for two records to compare, and in what two of them differ."""

from __future__ import annotations

import functools
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import msgspec

from efficientllm.errors import UserError
from efficientllm.records.choice import Choice
from efficientllm.records.measurement import Measurement
from efficientllm.records.model_settings import ModelSettings
from efficientllm.records.preset import OPEN, fill_slots
from efficientllm.records.trial import Trial

#: What a user calls a loop of his own is its technique, no condition.
_LOOP_NAME = "name"
#: At most so many differing keys are named; the rest are counted.
_MOST_NAMED = 4
#: How a key is said that stands for something with a better name.
_DEVICES = "environment.machine_id"


def key_of(record: Measurement) -> Hashable:
    """Return what records share that may be compared: all but axes, repeats and what the axes' values bring along."""
    trial = record.trial
    return (trial.stage, _settings_key(trial), record.environment.machine_id, trial.protocol, trial.protocol_version,
            tuple(sorted(trial.axes)), _data(record))  # fmt: skip


def key_across_machines(record: Measurement) -> Hashable:
    """Return what records of several machines must share to stand beside each other: all that a group does but that."""
    return key_of(
        msgspec.structs.replace(record, environment=msgspec.structs.replace(record.environment, machine_id=""))
    )


def lineages(records: Sequence[Measurement]) -> dict[str, bytes]:
    """Return how artifacts came to be that others stand on: trial -> its conditions and those of its own parents.

    What two studies serve compares only where it was trained alike. A trial whose record is not here says nothing.
    """
    by_id = {record.trial.id: record.trial for record in records}
    parents = {trial.parent for trial in by_id.values() if trial.parent in by_id}
    lines: dict[str, bytes] = {}

    def line(trial: Trial) -> bytes:
        if trial.id not in lines:
            lines[trial.id] = b""  # a ring of parents, which only a damaged record could have, ends here
            above = line(by_id[trial.parent]) if trial.parent in by_id else b""
            lines[trial.id] = _settings_key(trial) + above
        return lines[trial.id]

    return {parent: line(by_id[parent]) for parent in parents}


def differences(one: Measurement, other: Measurement, by_id: Mapping[str, Trial]) -> dict[str, tuple[str, str]]:
    """Return the keys in which two records differ that keep them from being compared, with both values.

    Args:
        one: a record of the one group.
        other: a record of the other.
        by_id: trials, among which their parents are found.

    >>> from efficientllm.records.examples import example_measurement, example_trial
    >>> from efficientllm.records.settings import PretrainSettings
    >>> small = example_measurement(trial=example_trial(PretrainSettings(size="small")))
    >>> differences(example_measurement(), small, {})["settings.size"]
    ('tiny', 'small')
    """
    ours, theirs = _told(one, by_id), _told(other, by_id)
    levers = tuple(f"settings.{axis}" for axis in (*one.trial.axes, *other.trial.axes))
    keys = [key for key in dict.fromkeys((*ours, *theirs)) if ours.get(key, "–") != theirs.get(key, "–")]
    if ours["workload"] != theirs["workload"]:  # then what they can be told differs too, and says nothing more
        keys = [key for key in keys if not key.startswith(("settings.", "parent.", "stage"))]
    keys = [key for key in keys if not key.startswith(levers)] if levers else keys
    return {key: (ours.get(key, "–"), theirs.get(key, "–")) for key in keys}


def said(differing: Mapping[str, tuple[str, str]]) -> str:
    """Write differing keys with both values, the first few of many.

    >>> said({"settings.size": ("tiny", "small"), "protocol.name": ("standard", "smoke")})
    'settings.size (tiny / small), protocol.name (standard / smoke)'
    """
    parts = [f"{key} ({ours} / {theirs})" for key, (ours, theirs) in differing.items()]
    more = [f"and {len(parts) - _MOST_NAMED} more"] if len(parts) > _MOST_NAMED else []
    return ", ".join(parts[:_MOST_NAMED] + more)


def _told(record: Measurement, by_id: Mapping[str, Trial]) -> dict[str, str]:
    """Return dotted key -> value of all that must be equal."""
    trial = record.trial
    told = {"workload": trial.settings_workload(), "stage": trial.stage, "axes": ", ".join(sorted(trial.axes))}
    told |= {key: value for key, value in _flat("settings", _conditions(trial)).items() if key != "settings.workload"}
    devices = ", ".join(device.name for device in record.environment.devices)
    told[_DEVICES] = f"{record.environment.machine_id} {devices}".strip()
    told |= _flat("protocol", msgspec.to_builtins(trial.protocol)) | {"protocol_version": str(trial.protocol_version)}
    if record.data is not None:
        told |= {"data.corpus_sha256": record.data.corpus_sha256[:12],
                 "data.tokenizer_sha256": record.data.tokenizer_sha256[:12]}  # fmt: skip
        told |= {f"data.{key}": value[:12] for key, value in record.data.details.items() if _identifies(key)}
    parent, place = by_id.get(trial.parent), "parent"
    while parent is not None and place.count(".") < len(by_id):
        told |= _flat(f"{place}.settings", _conditions(parent))
        parent, place = by_id.get(parent.parent), f"{place}.parent"
    return told


def _flat(place: str, value: Any) -> dict[str, str]:
    """Return the leaves of nested mappings by their dotted keys; a choice without options is its name."""
    if isinstance(value, dict) and value.keys() - {"name"}:
        return {key: leaf for name, inside in value.items() for key, leaf in _flat(f"{place}.{name}", inside).items()}
    return {place: _text(value)}


def _text(value: Any) -> str:
    """Write a setting's value, short.

    >>> _text([{"batch": 1, "tokens": 512}, {"batch": 2, "tokens": 64}]), _text({"name": "rope"}), _text(None)
    ('batch=1 tokens=512; batch=2 tokens=64', 'rope', 'none')
    """
    if isinstance(value, dict):
        return str(value["name"]) if value.keys() == {"name"} else " ".join(f"{k}={v}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return "; ".join(_text(one) for one in value) or "none"
    return "none" if value is None else str(value)


def _data(record: Measurement) -> tuple[str, ...] | None:
    if record.data is None:
        return None
    details = record.data.details
    domains = (told for key, told in sorted(details.items()) if key.startswith("domain_"))
    return (record.data.corpus_sha256, record.data.tokenizer_sha256, details.get("samples_sha256", ""), *domains)


def _identifies(detail: str) -> bool:
    return detail == "samples_sha256" or detail.startswith("domain_")


def _settings_key(trial: Trial) -> bytes:
    """Return a trial's conditions as bytes; cached by what they are made of, since repeats are many."""
    chosen = trial.selected.over if trial.selected else ""
    made_of = (msgspec.json.encode(trial.settings), tuple(trial.axes), chosen)
    if made_of not in _SETTINGS_KEYS:
        _SETTINGS_KEYS[made_of] = msgspec.json.encode(_conditions(trial), order="deterministic")
    return _SETTINGS_KEYS[made_of]


#: Settings as JSON, names of the axes, setting that was chosen -> the conditions as bytes.
_SETTINGS_KEYS: dict[tuple[bytes, tuple[str, ...], str], bytes] = {}


def _conditions(trial: Trial) -> dict[str, Any]:
    """Return a trial's settings without what its axes, or an earlier stage's choice, set."""
    chosen = {trial.selected.over: trial.selected.value} if trial.selected else {}
    settings = _without(msgspec.to_builtins(trial.settings), {**trial.axes, **chosen})
    filled = _filled(trial)
    return {key: value for key, value in settings.items() if key not in filled}


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
