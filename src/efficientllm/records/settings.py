"""What each workload can be told: one struct a workload, the recipe's keys are its fields."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

import msgspec

from efficientllm.errors import UserError
from efficientllm.records.choice import Choice
from efficientllm.records.finetune_settings import FinetuneSettings
from efficientllm.records.grid import KINDS, Generation, Grid, GridAxes, refuse_twice, spelled_out
from efficientllm.records.model_settings import (
    Dtype,
    Length,
    ModelSettings,
    NonNegative,
    Positive,
    Rows,
    refuse_told_by,
)
from efficientllm.records.serve_settings import ServeSettings
from efficientllm.records.training_settings import TrainingSettings

#: Settings that are filled from another folder than that of their own name.
_SLOTS = {
    "outside": "corpus",
    "base_precision": "precision",
    "cache": "cache_format",
    "domains": "corpus",
    "against": "precision",
}

#: What a domain may be called: it becomes part of a window's name.
_DOMAIN_NAME = re.compile(r"[a-z][a-z0-9_]*")


def slot_of(field: str) -> str:
    """Return the kind of entry that fills a setting.

    >>> slot_of("mixer"), slot_of("outside")
    ('mixer', 'corpus')
    """
    return _SLOTS.get(field, field)


def choices_of(value: object) -> Iterator[Choice]:
    """Yield the choices that a setting holds: itself, or those of a list or of a mapping.

    >>> [choice.name for choice in choices_of({"code": Choice(name="stdlib")})]
    ['stdlib']
    """
    if isinstance(value, Choice):
        yield value
    elif isinstance(value, tuple | dict):
        inside = value.values() if isinstance(value, dict) else value
        yield from (choice for choice in inside if isinstance(choice, Choice))


class PretrainSettings(TrainingSettings, frozen=True, kw_only=True, tag_field="workload", tag="pretrain"):
    """Training from scratch to a fixed token budget, then held-out quality.

    Attributes:
        outside: a corpus of another kind, whose held-out text is scored too, with the same tokenizer; null for none.
        target_loss: training loss, in nats a token, whose time, energy and FLOPs are told; 0 for none.
    """

    outside: Choice | None = None
    target_loss: NonNegative = 0.0


_ONE_POINT = (Grid(batch=1, tokens=512),)


class InferenceSettings(ModelSettings, frozen=True, kw_only=True, tag_field="workload", tag="inference"):
    """Prefill and decode, each in windows of its own over a grid, then held-out quality.

    Attributes:
        model: folder or hub id of a model; empty: what the stage of `from` left, or random weights of `size`.
        engine: who runs the model.
        precision: number format of the weights of all dense layers of the blocks; null: `dtype`.
        cache: number format of what is cached; null: that of the activations.
        arithmetic: windows that time nothing: logits are held to float32 arithmetic on the same weights, as they are
            once they have been rounded to their format. A trial whose logits are not those is invalid.
        prefill: windows that time the prompt alone (TTFT).
        decode: windows that time one further token a sequence (TPOT), with `tokens` already in the cache; they go up to
            64 tokens beyond, which the model's context must hold as well.
        generate: windows that time whole requests, from the prompt's tokens to the last token of the answer.
        grid: the same four in one line each, in their place; records hold the points that it stands for.
        domains: name -> a further corpus, whose held-out text is scored too, each in a window of its own.
        against: number format of the weights whose next-token distributions this trial's are compared with; null: that
            of the recipe's baseline where it names one, else `dtype`.
        questions: sets of questions that the model answers, each in a window of its own; the option `shots` of a set
            puts so many of its first ones, with their answers, before each of the others.
        asked: most questions of each set.
        question_template: how a question becomes a prompt: as it stands (`none`), or as in fine-tuning, with an empty
            line after it (`plain`) or by the chat template of the model's folder (`model`).
    """

    model: str = ""
    engine: Choice = Choice(name="native")
    precision: Choice | None = None
    cache: Choice | None = None
    arithmetic: tuple[Grid, ...] = ()
    prefill: tuple[Grid, ...] = _ONE_POINT
    decode: tuple[Grid, ...] = _ONE_POINT
    generate: tuple[Generation, ...] = ()
    grid: GridAxes | tuple[GridAxes, ...] = ()
    domains: dict[str, Choice] = msgspec.field(default_factory=dict)
    against: Choice | None = None
    questions: tuple[Choice, ...] = ()
    asked: Rows = 1000
    question_template: Literal["none", "plain", "model"] = "none"

    def __post_init__(self) -> None:
        """Spell a grid out, so that settings say which points they mean, however those were written.

        Raises:
            UserError: points and a grid, a point that stands twice, a domain whose name no window can have, or what the
                folder of `model` says itself.
        """
        super().__post_init__()
        if self.model:
            refuse_told_by(self.model, self)
        grids = (self.grid,) if isinstance(self.grid, GridAxes) else self.grid
        if grids:
            if (self.arithmetic, self.prefill, self.decode, self.generate) != ((), _ONE_POINT, _ONE_POINT, ()):
                raise UserError("grid stands for arithmetic, prefill, decode and generate. Give either it or them.")
            for kind, points in spelled_out(grids).items():
                msgspec.structs.force_setattr(self, kind, points)
            msgspec.structs.force_setattr(self, "grid", ())
        for kind in KINDS:
            refuse_twice(kind, getattr(self, kind))
        for name in self.domains:
            if not _DOMAIN_NAME.fullmatch(name) or name == "outside":
                raise UserError(f"domains: {name!r} cannot name a domain. Use small letters, digits and _: medicine.")


class VerifySettings(ModelSettings, frozen=True, kw_only=True, tag_field="workload", tag="verify"):
    """Does this combination compute what it should: against its reference, in training and token by token?

    Attributes:
        engine: who decodes.
        rows: sequences of `sequence_tokens` tokens that are compared.
        decode_tokens: so many of them are decoded one by one.
        error_bound: relative error above which the combination is invalid, in float32.
        low_precision_bound: the same in the recipe's own number format, where that is another.
    """

    engine: Choice = Choice(name="native")
    rows: Rows = 2
    decode_tokens: Length = 8
    error_bound: Positive = 1e-3
    low_precision_bound: Positive = 3e-2


class CalibrateSettings(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="workload", tag="calibrate"
):
    """The ceilings of a device: matrix products by dtype, read and copy by working set, launch overhead.

    Attributes:
        dtypes: number formats whose matrix product is timed; one that the device lacks is left out with its reason.
        burst_s, bursts: length and number of the matrix bursts whose median is the peak.
        sustained_s: length of the loop whose second half is the sustained rate.
    """

    dtypes: tuple[Dtype, ...] = ("float32", "bfloat16")
    burst_s: Positive = 0.05
    bursts: Rows = 20
    sustained_s: Positive = 10.0


class UserSettings(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="workload", tag="user"
):
    """A loop of somebody's own code, measured by `efficientllm.measure`; no recipe can ask for it.

    Attributes:
        name: what its author calls it: its row in a table.
        dtype: number format of its arithmetic, by which MFU finds its ceiling.
    """

    name: str
    dtype: Dtype = "float32"


Settings = (
    PretrainSettings
    | FinetuneSettings
    | InferenceSettings
    | ServeSettings
    | VerifySettings
    | CalibrateSettings
    | UserSettings
)

#: workload -> its settings, of those that a recipe can name.
SETTINGS: dict[str, type[Settings]] = {
    str(kind.__struct_config__.tag): kind
    for kind in (
        PretrainSettings,
        FinetuneSettings,
        InferenceSettings,
        ServeSettings,
        VerifySettings,
        CalibrateSettings,
    )
}
