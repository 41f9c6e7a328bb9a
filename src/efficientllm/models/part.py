"""What a mixer and an mlp have in common: hooks that training calls, each of which may do nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

if TYPE_CHECKING:
    from efficientllm.models.forward_pass import ForwardPass


class Part(nn.Module):
    """A part of a block.

    Training calls, each step:

        forward, losses()   … once a micro-batch; what `losses` returns is added to what is differentiated
        optimiser step
        after_step()        … once

    Attributes:
        recomputes: whether the backward pass computes the wide inner layers once more instead of keeping what is in
            them; a part that has such layers hands them to `run_wide`.
        counts_frozen: whether `saved_bytes` knows which of its weights are frozen, and what need not be kept then.
    """

    recomputes = False
    counts_frozen = False

    def run_wide(self, layers: Callable[..., Tensor], *given: Any) -> Tensor:
        """Return `layers(*given)`, of which only what came in is kept where the part recomputes."""
        if not self.recomputes or not torch.is_grad_enabled():
            return layers(*given)
        out: Tensor = checkpoint(layers, *given, use_reentrant=False, preserve_rng_state=draws(self))
        return out

    def tallies(self) -> tuple[Tensor, ...]:
        """Return the buffers in which a forward pass in training counts something."""
        return ()

    def step_counts(self) -> tuple[Tensor, ...]:
        """Return what was counted since the last `after_step`, as views; ranks that train together sum it before."""
        return ()

    def implementation(self, dtype: torch.dtype, *, gradients: bool) -> str:
        """Return, for the record, how it computes many tokens on its weights' device; empty if there is one way.

        Args:
            dtype: of the numbers; autocast's own where it is on.
            gradients: whether a backward pass follows.
        """
        return ""

    def saved_bytes(self, ahead: ForwardPass) -> float:
        """Return the bytes that a forward pass in training keeps for the backward pass, each storage once.

        What it is given counts where it is kept in a type or form of its own, as by the first product; weights, and
        copies of them in the products' type, do not.

        Raises:
            NotImplementedError: the part does not say so; a run's memory cannot be predicted with it.
        """
        raise NotImplementedError

    def working_bytes(self, ahead: ForwardPass) -> float:
        """Return the most that its backward pass holds at once beside what was kept and the gradients of weights."""
        raise NotImplementedError

    def losses(self) -> dict[str, Tensor]:
        """Return the auxiliary losses of the last forward pass in training, weighed, as scalars with gradients.

        They are handed out once and then forgotten, so that no graph outlives its step.
        """
        return {}

    def after_step(self) -> None:
        """Do what is due after the optimiser's step, without waiting for the device."""


def draws(module: nn.Module) -> bool:
    """Whether a forward pass draws random numbers: what is computed again must then draw the same."""
    return any(isinstance(part, nn.Dropout) and part.training and part.p > 0 for part in module.modules())


class Chooser(nn.Module):
    """Something that decides for each token, as a router does: a step function, which tips with the last digit.

    Two number formats can only be compared where both take the same choices; `same_choices` sees to that.
    """

    _holding = False
    _held: Tensor | None = None

    def choose(self, make: Callable[[], Tensor]) -> Tensor:
        """Return the choice that `make` gives, or inside `same_choices` the first that was made there."""
        if not self._holding:
            return make()
        if self._held is None:
            self._held = make()
        return self._held

    def hold(self, holding: bool) -> None:
        """Begin or end repeating the next choice."""
        self._holding, self._held = holding, None


@contextmanager
def same_choices(module: nn.Module) -> Iterator[None]:
    """Let every chooser inside a module repeat, for all forward passes of this block, what it chooses in the first."""
    choosers = [part for part in module.modules() if isinstance(part, Chooser)]
    for chooser in choosers:
        chooser.hold(True)
    try:
        yield
    finally:
        for chooser in choosers:
            chooser.hold(False)


def compute_dtype(weight: Tensor) -> torch.dtype:
    """Return the type in which a product with this weight is taken: autocast's where it is on, else the weight's."""
    device = weight.device.type
    if device == "meta" or not torch.is_autocast_enabled(device):  # meta has no autocast
        return weight.dtype
    return torch.get_autocast_dtype(device)
