"""What each workload can be told: one struct a workload, the recipe's keys are its fields.

Every field has a default, so that a recipe names only what it means to set; a trial holds all of them, resolved.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from efficientllm.records.choice import Choice, Scalar
from efficientllm.records.preset import OPEN, fill_slots

# Bounds that no real run comes near: they turn a slip (a negative size, a stray factor of a million) into one line.
Count = Annotated[int, msgspec.Meta(ge=1, le=10**15)]
Length = Annotated[int, msgspec.Meta(ge=1, le=2**24)]
Rows = Annotated[int, msgspec.Meta(ge=1, le=2**20)]
Positive = Annotated[float, msgspec.Meta(gt=0.0, le=1e6)]
NonNegative = Annotated[float, msgspec.Meta(ge=0.0, le=1e6)]
Fraction = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]
Dtype = Literal["float32", "bfloat16", "float16"]
Match = Literal["shape", "params", "flops", "cache"]


#: Settings that are filled from another folder than that of their own name.
_SLOTS = {"outside": "corpus"}


def slot_of(field: str) -> str:
    """Return the kind of entry that fills a setting.

    >>> slot_of("mixer"), slot_of("outside")
    ('mixer', 'corpus')
    """
    return _SLOTS.get(field, field)


class Grid(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One window of inference: so many sequences, with so many tokens in the prompt or in the cache."""

    batch: Rows = 1
    tokens: Length = 512


class ModelSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every workload on a model can be told: the model, its text and its number format.

    Attributes:
        size: a name of `models.sizes` (`tiny`, `small`, `0.5b` …), or one with experts in place of its mlp (`0.5bx8`).
        preset: the design of the blocks; `modern` is that of Llama and Qwen.
        shape: fields of `Shape` that replace those of the size and the preset.
        mixer, position, mlp: the decoder's slots; one that is left open is filled as size, mixer or preset say.
        match: what is held equal to the plain model of this size (gqa, rope, dense, `modern`): its `shape`, its
            parameters or its training FLOPs (`params`, `flops`: the mlp's width gives way), or the bytes that a token
            takes in the cache (`cache`: the mixer's widths give way).
        corpus: the text, for training and for held-out quality.
        tokenizer: `bpe` trains a byte-level BPE of `vocab_tokens` on the corpus; else a folder or hub id.
        dtype: `float32`, `bfloat16` or `float16`; in training, the autocast type over float32 weights.
        heldout_tokens: how many held-out tokens judge quality.
        sequence_tokens: length of a training row and of a quality row.
        compile: whether torch.compile is used.
    """

    size: str = "tiny"
    preset: Choice = Choice(name="modern")
    shape: dict[str, Scalar] = {}
    mixer: Choice = OPEN
    position: Choice = OPEN
    mlp: Choice = OPEN
    match: Match = "shape"
    corpus: Choice = Choice(name="stdlib")
    tokenizer: str = "bpe"
    vocab_tokens: Annotated[int, msgspec.Meta(ge=257, le=2**24)] = 4096
    dtype: Dtype = "float32"
    heldout_tokens: Count = 32768
    sequence_tokens: Length = 256
    compile: bool = False

    def __post_init__(self) -> None:
        """Fill the slots that were left open, so that settings, and with them every record, say what they are.

        Raises:
            UserError: no such preset, or one that cannot be used.
        """
        if "×" in self.size:  # one spelling, one identity
            msgspec.structs.force_setattr(self, "size", self.size.replace("×", "x"))
        chosen = {"mixer": self.mixer, "position": self.position, "mlp": self.mlp}
        if OPEN in chosen.values():
            for slot, choice in fill_slots(self.size, self.preset, chosen).items():
                msgspec.structs.force_setattr(self, slot, choice)


class PretrainSettings(ModelSettings, frozen=True, kw_only=True, tag_field="workload", tag="pretrain"):
    """Training from scratch to a fixed token budget, then held-out quality.

    Attributes:
        tokens: the budget; the run ends with the step that reaches it.
        micro_batch: rows in one forward pass; accumulation: forward passes in one step.
        learning_rate: the peak; `warmup_ratio` of the steps rise to it, a cosine ends at `final_lr_ratio` of it.
        weight_decay, beta1, beta2: of AdamW.
        clip_norm: global gradient norm above which gradients are scaled; 0 turns it off.
        divergence_factor: training ends as `diverged` when the loss exceeds so many times its first value.
        judged_on: `test` rows of the held-out text, or its `valid` rows, which share no token with them: what a setting
            is chosen by must not be what it is judged by.
        outside: a corpus of another kind, whose held-out text is scored too, with the same tokenizer; null for none.
        target_loss: training loss, in nats a token, whose time, energy and FLOPs are told; 0 for none.
    """

    tokens: Count = 1_000_000
    micro_batch: Rows = 8
    accumulation: Rows = 1
    learning_rate: Positive = 1e-3
    warmup_ratio: Fraction = 0.05
    final_lr_ratio: Fraction = 0.1
    weight_decay: NonNegative = 0.1
    beta1: Fraction = 0.9
    beta2: Fraction = 0.95
    clip_norm: NonNegative = 1.0
    divergence_factor: Positive = 3.0
    judged_on: Literal["test", "valid"] = "test"
    outside: Choice | None = None
    target_loss: NonNegative = 0.0


class InferenceSettings(ModelSettings, frozen=True, kw_only=True, tag_field="workload", tag="inference"):
    """Prefill and decode, each in windows of its own over a grid, then held-out quality.

    Attributes:
        engine: who runs the model.
        prefill: windows that time the prompt alone (TTFT).
        decode: windows that time one further token a sequence (TPOT), with `tokens` already in the cache.
    """

    engine: Choice = Choice(name="native")
    prefill: tuple[Grid, ...] = (Grid(batch=1, tokens=512),)
    decode: tuple[Grid, ...] = (Grid(batch=1, tokens=512),)


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


Settings = PretrainSettings | InferenceSettings | VerifySettings | CalibrateSettings | UserSettings

#: workload -> its settings, of those that a recipe can name.
SETTINGS: dict[str, type[Settings]] = {
    str(kind.__struct_config__.tag): kind
    for kind in (PretrainSettings, InferenceSettings, VerifySettings, CalibrateSettings)
}
