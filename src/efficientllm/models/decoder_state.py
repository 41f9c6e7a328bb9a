"""What a decoder remembers between tokens: one state a layer, and where the next token stands."""

from __future__ import annotations

import torch

from efficientllm.models.mixers._contract import State


class DecoderState:
    """What a decoder remembers: one state a layer, and the next position on the device.

    Attributes:
        layers: the mixers' states.
        next_1: position of the next token, one int64 on the device, so that a captured step finds it.
    """

    def __init__(self, layers: list[State], device: torch.device) -> None:
        self.layers = layers
        self.next_1 = torch.zeros(1, dtype=torch.int64, device=device)

    @property
    def length(self) -> int:
        """Tokens remembered."""
        return self.layers[0].length

    def advance(self, num_tokens: int) -> None:
        """Count tokens on the host; the device counted them in the forward pass."""
        for layer in self.layers:
            layer.advance(num_tokens)

    def mark(self) -> None:
        """Remember this point, so that `rewind` can come back to it whatever the mixer."""
        for layer in self.layers:
            layer.mark()

    def rewind(self, length: int) -> None:
        """Forget all tokens from `length` on: 0, a marked length, or, where all layers have caches, any."""
        for layer in self.layers:
            layer.rewind(length)
        self.next_1.fill_(length)

    def use_fixed_shapes(self) -> None:
        """Let one-token steps run without the host's length, as capturing and compiling need it."""
        for layer in self.layers:
            layer.fixed_shapes = True

    def bytes_per_token(self) -> float:
        """Return the growth a token and a sequence, in bytes, over all layers."""
        return sum(layer.bytes_per_token() for layer in self.layers)

    def state_bytes(self) -> int:
        """Return the constant part for a sequence, in bytes, over all layers."""
        return sum(layer.state_bytes() for layer in self.layers)
