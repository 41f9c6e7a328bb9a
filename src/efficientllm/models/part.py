"""What a mixer and an mlp have in common: hooks that training calls, each of which may do nothing."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Part(nn.Module):
    """A part of a block.

    Training calls, each step:

        forward, losses()   … once a micro-batch; what `losses` returns is added to what is differentiated
        optimiser step
        after_step()        … once
    """

    def implementation(self, dtype: torch.dtype, *, gradients: bool) -> str:
        """Return, for the record, how it computes many tokens on its weights' device; empty if there is one way.

        Args:
            dtype: of the numbers; autocast's own where it is on.
            gradients: whether a backward pass follows.
        """
        return ""

    def losses(self) -> dict[str, Tensor]:
        """Return the auxiliary losses of the last forward pass in training, weighed, as scalars with gradients.

        They are handed out once and then forgotten, so that no graph outlives its step.
        """
        return {}

    def after_step(self) -> None:
        """Do what is due after the optimiser's step, without waiting for the device."""


def compute_dtype(weight: Tensor) -> torch.dtype:
    """Return the type in which a product with this weight is taken: autocast's where it is on, else the weight's."""
    device = weight.device.type
    if device == "meta" or not torch.is_autocast_enabled(device):  # meta has no autocast
        return weight.dtype
    return torch.get_autocast_dtype(device)
