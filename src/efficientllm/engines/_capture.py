"""A decode step recorded once as a CUDA graph and replayed: one launch instead of hundreds."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

#: Steps before recording, on a stream of their own: libraries set themselves up, compiled code compiles.
_WARM_UPS = 3


class CapturedStep:
    """A step from tokens to logits at fixed addresses.

    All that the step reads and writes besides (weights, state, the position) must keep its address and must not depend
    on a number that the host knows.
    """

    def __init__(
        self, step: Callable[[Tensor], Tensor], restore: Callable[[], None], batch: int, device: torch.device
    ) -> None:
        """Record the step.

        Args:
            step: from tokens_B to logits_BV.
            restore: takes back what one call of `step` did to the state.
            batch: rows.
            device: a CUDA device.
        """
        self.tokens_B = torch.zeros(batch, dtype=torch.int64, device=device)
        side = torch.cuda.Stream(device)
        side.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.device(device), torch.cuda.stream(side):
            for _ in range(_WARM_UPS):
                step(self.tokens_B)
                restore()
        torch.cuda.current_stream(device).wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(device), torch.cuda.graph(self.graph):
            self.logits_BV = step(self.tokens_B)
        restore()

    def __call__(self, tokens_B: Tensor) -> Tensor:
        """Replay the step; the logits are overwritten by the next replay."""
        self.tokens_B.copy_(tokens_B, non_blocking=True)
        self.graph.replay()
        return self.logits_BV
