"""What every workload on a model can be told: the model, its text, its number format.

Every field has a default, so that a recipe names only what it means to set; a trial holds all of them, resolved.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import msgspec

from efficientllm.errors import UserError
from efficientllm.records.choice import Choice, Scalar
from efficientllm.records.preset import OPEN, fill_slots

# Bounds that no real run comes near: they turn a slip (a negative size, a stray factor of a million) into one line.
Count = Annotated[int, msgspec.Meta(ge=1, le=10**15)]
Length = Annotated[int, msgspec.Meta(ge=1, le=2**24)]
Rows = Annotated[int, msgspec.Meta(ge=1, le=2**20)]
Steps = Annotated[int, msgspec.Meta(ge=0, le=10**12)]
Positive = Annotated[float, msgspec.Meta(gt=0.0, le=1e6)]
NonNegative = Annotated[float, msgspec.Meta(ge=0.0, le=1e6)]
Fraction = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]
Dtype = Literal["float32", "bfloat16", "float16"]
Match = Literal["shape", "params", "flops", "cache"]


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
        own_with_from: what a stage that takes another one's model may still say; all else comes with the model.
    """

    own_with_from: ClassVar[tuple[str, ...]] = ("dtype", "compile", "heldout_tokens")

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


#: Settings that say what a model is; of a model that is named by its folder they come from there.
_OF_THE_MODEL = ("size", "preset", "shape", "mixer", "position", "mlp", "match", "tokenizer")


def refuse_told_by(model: str, settings: ModelSettings) -> None:
    """Refuse settings that say what a model is beside a model that says it itself.

    Raises:
        UserError: there is one.
    """
    plain = ModelSettings()
    said = [key for key in _OF_THE_MODEL if getattr(settings, key) != getattr(plain, key)]
    if said:
        raise UserError(f"model {model} says itself what its {said[0]} is. Leave {said[0]} out.")
