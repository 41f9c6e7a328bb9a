"""What an optimiser is: what changes the weights by their gradients, and what it remembers for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from efficientllm.records.card import Card
from efficientllm.records.training_settings import TrainingSettings

#: Parameter groups as torch's optimisers take them: `params`, `weight_decay`.
Groups = list[dict[str, Any]]


@dataclass(frozen=True)
class OptimizerEntry:
    """An optimiser's entry.

    Attributes:
        card: the technique's claim.
        build: `build(groups, settings, **options)` returns a torch optimiser whose groups hold the rate as `lr`; its
            keyword parameters are the options a recipe can set.
        state_bytes: `state_bytes(shape, dtype)` returns the bytes that it remembers of a parameter.
    """

    card: Card
    build: Callable[..., torch.optim.Optimizer]
    state_bytes: Callable[[torch.Size, torch.dtype], int]


def parameter_groups(model: torch.nn.Module, settings: TrainingSettings) -> Groups:
    """Return what is trained in groups: weight decay is for matrices only, gains and biases are left alone.

    Parameters that lie over several ranks form groups of their own: torch's kernels take no mixture of the two.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    kinds = ((decays, shared) for shared in (False, True) for decays in (True, False))
    groups = []
    for decays, shared in kinds:
        chosen = [p for p in trained if (p.dim() >= 2) is decays and hasattr(p, "to_local") is shared]
        if chosen or not shared:
            groups.append({"params": chosen, "weight_decay": settings.weight_decay if decays else 0.0})
    return groups


def set_rate(groups: Groups, rate: float) -> None:
    """Set the learning rate of an optimiser's groups; one that is compiled holds it as a tensor."""
    for group in groups:
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate
