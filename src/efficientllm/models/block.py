"""One layer of the decoder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from efficientllm.models.forward_pass import ForwardPass, copied_bytes
from efficientllm.models.linear import num_parameters
from efficientllm.models.mixers._contract import Mixer, State
from efficientllm.models.mlp._contract import Mlp
from efficientllm.models.norm import make_norm, norm_bytes
from efficientllm.models.part import draws
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
            preserve_rng_state=draws(self),
            context_fn=lambda: (nullcontext(), self._second_time()),
        )
        return out_BTD

    def saved_bytes(self, ahead: ForwardPass) -> float:
        """Return the bytes that this layer keeps from its forward pass to its backward pass, weights' copies included.

        What comes in, what the mixer adds to it (compiled in its own type, eager as their sum), the norms' statistics.
        """
        width = self.mixer.shape.width
        kept = 2 * norm_bytes(self.mixer_norm, ahead)
        if self.parallel:  # both norms read the same
            kept -= ahead.residuals(width)
        elif ahead.compiled:
            kept += ahead.numbers(width) - ahead.residuals(width)
        copies = copied_bytes(self.mixer, ahead) + (0.0 if ahead.recomputes else copied_bytes(self.mlp, ahead))
        return kept + copies + self.mixer.saved_bytes(ahead) + self.mlp.saved_bytes(ahead)

    def working_bytes(self, ahead: ForwardPass) -> float:
        """Return the most that its backward pass holds at once beside what was kept, its weights' gradients included.

        First the mlp's, then the mixer's; by then what the mlp kept is gone and the gradients of its weights are there.
        """
        width = self.mixer.shape.width
        flowing = ahead.residuals(width) + ahead.numbers(width)  # gradient of the stream, and of what is added to it
        mlp_copies = copied_bytes(self.mlp, ahead)
        again = mlp_copies if ahead.recomputes else 0.0
        given_back = self.mlp.saved_bytes(ahead) + (0.0 if ahead.recomputes else mlp_copies)
        gradients = num_parameters(self.mlp) * ahead.weight_bytes
        mixer = self.mixer.working_bytes(ahead) + gradients - given_back
        return flowing + max(self.mlp.working_bytes(ahead) + again, mixer)

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
