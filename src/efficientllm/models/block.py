"""One layer of the decoder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from efficientllm.models.mixers._contract import Mixer, State
from efficientllm.models.mlp._contract import Mlp
from efficientllm.models.norm import make_norm
from efficientllm.models.position._contract import Positions
from efficientllm.models.shape import Shape


class Block(nn.Module):
    """One layer: mixer and mlp, each on the normalised residual stream and added to it.

    One after the other, so that the mlp reads what the mixer wrote; or side by side (`shape.parallel_residual`).
    """

    def __init__(self, shape: Shape, mixer: Mixer, mlp: Mlp) -> None:
        super().__init__()
        self.parallel = shape.parallel_residual
        self.mixer_norm = make_norm(shape)
        self.mixer = mixer
        self.mlp_norm = make_norm(shape)
        self.mlp = mlp

    def forward(
        self, x_BTD: Tensor, positions: Positions, state: State | None, sequence_ids_BT: Tensor | None
    ) -> Tensor:
        """Return the residual stream after this layer."""
        mixed_BTD = x_BTD + self.mixer(self.mixer_norm(x_BTD), positions, state, sequence_ids_BT)
        out_BTD: Tensor = mixed_BTD + self.mlp(self.mlp_norm(x_BTD if self.parallel else mixed_BTD))
        return out_BTD

    def checkpointed(
        self, x_BTD: Tensor, positions: Positions, state: State | None, sequence_ids_BT: Tensor | None
    ) -> Tensor:
        """Return the same and keep only what came in: the backward pass computes the layer once more."""
        out_BTD: Tensor = checkpoint(
            self,
            x_BTD,
            positions,
            state,
            sequence_ids_BT,
            use_reentrant=False,
            preserve_rng_state=False,  # nothing here is random
            context_fn=lambda: (nullcontext(), self._second_time()),
        )
        return out_BTD

    @contextmanager
    def _second_time(self) -> Iterator[None]:
        """Let a repeated forward pass leave no trace in what the parts count and want added to the loss."""
        parts = (self.mixer, self.mlp)
        kept = [(counter, counter.clone()) for part in parts for counter in part.tallies()]
        try:
            yield
        finally:
            for counter, before in kept:
                counter.copy_(before)
            for part in parts:
                part.losses()
