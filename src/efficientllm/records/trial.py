"""A trial: one thing to measure, and its identity."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import msgspec

from efficientllm.records.protocol import PROTOCOL_VERSION, Protocol
from efficientllm.records.settings import Settings


class Selected(msgspec.Struct, frozen=True, kw_only=True):
    """The value of a setting that did best in an earlier stage, with its evidence.

    Attributes:
        stage, by, over: of the recipe's `select`: where it was tried, by what figure, which setting.
        value: the chosen one, as a label; empty where none could be chosen, then `outcome` says how the stage ended.
        tried: value -> mean of the figure over the stage's repeats, lower is better.
        failed: value -> how it ended, for values that cannot be chosen.
        at_edge: whether the chosen value is the first or the last of those listed, so that a better one may lie beyond.
    """

    stage: str
    by: str
    over: str
    value: str = ""
    outcome: str = ""
    tried: dict[str, float] = {}
    failed: dict[str, str] = {}
    at_edge: bool = False


#: How an axis' null is written.
_NOTHING = str(None)


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """One cell of a study, once.

    Attributes:
        id: from `make_trial`; a function of everything below it except the labels.
        settings: the workload's settings, all of them.
        device: kind of device, `cpu` or `cuda`.
        seed: seeds weights and data order; repeats differ in it, techniques of one round share it.
        repeat: which repeat (round) this is, from 0.
        parent: id of the trial whose artifact this one takes, or empty.
        stage: label; the recipe's stage.
        axes: label; axis -> value, for all axes that led here (those of the parent's stage too).
        baseline: label; whether the recipe names these axes' values as the baseline.
        selected: label; the choice that set one of the settings, if an earlier stage was to make it.
        name: label; the row's name, where it is another than the values of all axes.
    """

    id: str
    settings: Settings
    protocol: Protocol
    device: str
    seed: int
    repeat: int
    parent: str = ""
    protocol_version: int = PROTOCOL_VERSION
    stage: str = ""
    axes: dict[str, str] = {}
    baseline: bool = False
    selected: Selected | None = None
    name: str = ""

    def technique(self) -> str:
        """Return the row's name: its own, or the values of its axes.

        >>> from efficientllm.records.examples import example_trial
        >>> example_trial(axes={"mixer": "mla", "mlp": "moe"}).technique()
        'mla moe'
        >>> example_trial(axes={"precision": "int4", "cache": "None"}).technique()
        'int4'
        """
        words = [value for value in self.axes.values() if value != _NOTHING]  # what is not there needs no word
        plain = "plain" if self.axes else self.settings_workload()
        return self.name or " ".join(words) or plain

    def settings_workload(self) -> str:
        """Return the workload's name, for example `pretrain`."""
        return str(type(self.settings).__struct_config__.tag)


def make_trial(
    *,
    settings: Settings,
    protocol: Protocol,
    device: str,
    seed: int,
    repeat: int,
    parent: str = "",
    stage: str = "",
    axes: dict[str, str] | None = None,
    baseline: bool = False,
    selected: Selected | None = None,
    name: str = "",
) -> Trial:
    """Build a trial with its id: a hash of what is measured, not of what it is called.

    The recipe's name, the stage's name, labels and the path of a user's own file (its hash counts instead) leave the
    id alone, so that the same cell of two studies is the same trial.
    """
    digest = trial_digest(
        {
            "settings": msgspec.to_builtins(settings),
            "protocol": msgspec.to_builtins(protocol),
            "device": device,
            "seed": seed,
            "repeat": repeat,
            "parent": parent,
            "protocol_version": PROTOCOL_VERSION,
        }
    )
    return Trial(
        id=digest,
        settings=settings,
        protocol=protocol,
        device=device,
        seed=seed,
        repeat=repeat,
        parent=parent,
        stage=stage,
        axes=axes or {},
        baseline=baseline,
        selected=selected,
        name=name,
    )


def trial_digest(fields: Mapping[str, object]) -> str:
    """Return the id of a trial from its fields as they are stored, by name; paths of users' own files do not count.

    Read from a stored record's own JSON it holds for records of every schema: fields that are newer than the record
    are no part of its id.

    Raises:
        KeyError: a field is missing.
    """
    names = ("settings", "protocol", "device", "seed", "repeat", "parent", "protocol_version")
    identity = [_without_paths(fields[name]) for name in names]
    return hashlib.sha256(msgspec.json.encode(identity, order="deterministic")).hexdigest()[:16]


def _without_paths(value: object) -> object:
    if isinstance(value, dict):
        return {k: _without_paths(v) for k, v in value.items() if not (k == "path" and "sha256" in value)}
    if isinstance(value, list | tuple):
        return [_without_paths(item) for item in value]
    return value
