"""One layer of the decoder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from efficientllm.models.adapted import added_bytes, made_bytes, result_bytes, trained_bytes
from efficientllm.models.forward_pass import ForwardPass, copied_bytes
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

    def saved_bytes(self, ahead: ForwardPass, *, begins: bool = False) -> float:
        """Return the bytes that this layer keeps from its forward pass to its backward pass, weights' copies included.

        What comes in, what the mixer adds to it (compiled in its own type, eager as their sum), the norms' statistics,
        and what adapters keep for themselves.

        Args:
            ahead: the pass.
            begins: whether nothing is trained before this layer: what comes in then needs no gradient. (If its mixer
                has nothing to learn either, less is kept than is counted.)
        """
        width = self.mixer.shape.width
        first = norm_bytes(self.mixer_norm, ahead, begins=begins)
        kept = first + norm_bytes(self.mlp_norm, ahead, begins=begins and self.parallel)
        if self.parallel and first:  # both norms read the same
            kept -= ahead.residuals(width)
        if ahead.compiled and not self.parallel:  # then it is the mixer's own result that is kept
            kept += ahead.numbers(width) - ahead.residuals(width)
        else:
            kept += result_bytes(self.mixer, ahead)
        kept += copied_bytes(self.mixer, ahead) + added_bytes(self.mixer, ahead)
        return (
            kept
            + self.mixer.saved_bytes(ahead)
            + (0.0 if ahead.recomputes else self._around_mlp(ahead))
            + (self.mlp.saved_bytes(ahead))
        )

    def working_bytes(self, ahead: ForwardPass) -> float:
        """Return the most that its backward pass holds at once beside what was kept, its weights' gradients included.

        First the mlp's, then the mixer's; by then what the mlp kept is gone and the gradients of its weights are there.
        """
        width = self.mixer.shape.width
        # The gradient of the stream, and where that has another type of what is added to it.
        flowing = ahead.residuals(width) + (ahead.numbers(width) if ahead.autocast else 0.0)
        around = self._around_mlp(ahead)
        again = around if ahead.recomputes else 0.0
        given_back = self.mlp.saved_bytes(ahead) + (0.0 if ahead.recomputes else around)
        mlp = self.mlp.working_bytes(ahead) + made_bytes(self.mlp, ahead) + again
        mixer = self.mixer.working_bytes(ahead) + made_bytes(self.mixer, ahead) + trained_bytes(self.mlp) - given_back
        return flowing + max(mlp, mixer)

    def _around_mlp(self, ahead: ForwardPass) -> float:
        """Return what is kept beside what the mlp says: the copies of its weights, and what its adapters keep."""
        return copied_bytes(self.mlp, ahead) + added_bytes(self.mlp, ahead) + result_bytes(self.mlp, ahead)

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
