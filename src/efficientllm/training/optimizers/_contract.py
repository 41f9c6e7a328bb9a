"""What an optimiser is: what changes the weights by their gradients, and what it remembers for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from efficientllm.records.card import Card
from efficientllm.records.training_settings import TrainingSettings

#: Parameter groups as torch's optimisers take them: `params`, `weight_decay`, and `rate_factor`, see `set_rate`.
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


def parameter_groups(
    model: torch.nn.Module, settings: TrainingSettings, rate_factor: Callable[[str], float] = lambda name: 1.0
) -> Groups:
    """Return what is trained in groups: weight decay is for matrices only, gains and biases are left alone.

    Parameters that lie over several ranks form groups of their own: torch's kernels take no mixture of the two. So do
    those whose learning rates differ.

    Args:
        model: its parameters that require a gradient are trained.
        settings: the weight decay counts.
        rate_factor: name of a parameter -> what the learning rate is multiplied with for it.
    """
    trained = [(p, rate_factor(name)) for name, p in model.named_parameters() if p.requires_grad]
    factors = sorted({factor for _, factor in trained}) or [1.0]
    kinds = ((decays, shared, factor) for shared in (False, True) for decays in (True, False) for factor in factors)
    groups = []
    for decays, shared, factor in kinds:
        chosen = [
            p for p, own in trained if (p.dim() >= 2) is decays and hasattr(p, "to_local") is shared and own == factor
        ]
        if chosen or not shared:
            decay = settings.weight_decay if decays else 0.0
            groups.append({"params": chosen, "weight_decay": decay, "rate_factor": factor})
    return groups


def set_rate(groups: Groups, rate: float) -> None:
    """Set the learning rate of an optimiser's groups; one that is compiled holds it as a tensor.

    Each group has it times its factor; those of a checkpoint from before there were factors have none.
    """
    for group in groups:
        own = rate * group.get("rate_factor", 1.0)
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(own)
        else:
            group["lr"] = own
