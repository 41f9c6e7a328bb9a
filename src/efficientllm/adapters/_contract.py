"""What a fine-tuning method is: it says which numbers of a decoder are trained, and leaves a plain decoder at the end.

attach(decoder)  ─  training  ─  save(folder)  ─  merge()  ─  a decoder as any other

A method of your own is the shortest of three:

    a configuration   an `adapter_config.json` of the peft library is a method as it is, by its path or its folder's
    over peft         `attach` returns `attach_peft(decoder, config)` of `_peft.py`, as `lora.py` does: parameters,
                      saving and merging are peft's, and the base may be packed
    anything else     subclass `Attached`; where some of the decoder's own parameters are trained, `WholeWeights` of
                      `_whole.py` has the rest, as in `freeze.py`. Without `AdaptedLinear` there is nothing to pack:
                      `over_packed` says so

End the file with `ENTRY = MethodEntry(card=..., attach=...)` and run `efficientllm check my_method.py`, which calls the
checks of `_checks.py` that every method of this folder passes. Then use it by its path: `method=[lora,./my_method.py]`,
with options as `method: {name: ./my_method.py, rank: 8}`. Its hash is in the record.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from efficientllm.models.decoder import Decoder
from efficientllm.records.card import Card


class Attached(ABC):
    """A method at work on a decoder; `requires_grad` of the decoder's parameters says what is trained.

    Attributes:
        decoder: the model.
    """

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder

    def trained(self) -> dict[str, nn.Parameter]:
        """Return name -> parameter of what is trained."""
        return {name: p for name, p in self.decoder.named_parameters() if p.requires_grad}

    def rate_factor(self, name: str) -> float:
        """Return by how much a trained parameter's learning rate differs from the settings' (LoRA+)."""
        return 1.0

    def held_bytes(self) -> float:
        """Return the bytes that the method holds beside the decoder's own tensors."""
        return 0.0

    @abstractmethod
    def save(self, folder: Path, base: str = "") -> None:
        """Write what was trained into a folder, with all that `load` needs; `base` names the model it belongs to."""

    @abstractmethod
    def load(self, folder: Path) -> None:
        """Fill what is trained from a folder that `save` wrote.

        Raises:
            UserError: the folder belongs to another method or another model.
        """

    @abstractmethod
    def merge(self) -> None:
        """Leave a plain decoder whose weights compute what the adapted one did; nothing can be trained after it."""


@dataclass(frozen=True)
class MethodEntry:
    """A method's entry.

    Attributes:
        card: the technique's claim.
        attach: `attach(decoder, **options)` changes the decoder; its keyword parameters are the options a recipe can
            set, each with a default. Random numbers are drawn from torch's state, which the caller has seeded. The
            model computes at first what it did before. What does not fit a model raises `UserError` with its reason.
        alike: whether it does the same to all layers of a model, so that one of them tells what each takes.
        over_packed: why the method cannot be used over a base of low precision; empty if it can.
    """

    card: Card
    attach: Callable[..., Attached]
    over_packed: str = ""
    alike: bool = True
