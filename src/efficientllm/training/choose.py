"""Loads the optimiser and the schedule that settings name, with their options."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch

from efficientllm.records.choice import load_chosen
from efficientllm.records.training_settings import TrainingSettings
from efficientllm.training.offload import HostOptimizer
from efficientllm.training.optimizers._contract import Groups, OptimizerEntry, parameter_groups
from efficientllm.training.schedules._contract import ScheduleEntry


def load_optimizer(
    settings: TrainingSettings,
    model: torch.nn.Module,
    homes: Mapping[torch.nn.Parameter, torch.Tensor] | None = None,
    rate_factor: Callable[[str], float] = lambda name: 1.0,
) -> torch.optim.Optimizer | HostOptimizer:
    """Return the optimiser of a model's trained parameters, in the host's memory if the settings offload it.

    Args:
        settings: which one.
        model: its parameters are on the device.
        homes: as in `HostOptimizer`.
        rate_factor: as in `parameter_groups`.

    Raises:
        UnknownNameError: no such optimiser.
        UserError: an option that it does not have, or a file whose ENTRY is of another kind.
        Unsupported: it cannot be had here.
    """
    entry = load_chosen("optimizer", settings.optimizer, OptimizerEntry, _of_optimizer)
    groups = parameter_groups(model, settings, rate_factor)

    def build(groups: Groups) -> torch.optim.Optimizer:
        made: torch.optim.Optimizer = entry.build(groups, settings, **settings.optimizer.options)
        return made

    return build(groups) if settings.offload == "none" else HostOptimizer(groups, build, settings, homes)


def state_bytes_on_device(settings: TrainingSettings, model: torch.nn.Module) -> int:
    """Return the bytes of the optimiser's state that lie on the device of a model.

    Raises:
        As `load_optimizer`.
    """
    if settings.offload != "none":
        return 0
    entry = load_chosen("optimizer", settings.optimizer, OptimizerEntry, _of_optimizer)
    return sum(entry.state_bytes(p.shape, p.dtype) for p in model.parameters() if p.requires_grad)


def load_schedule(settings: TrainingSettings) -> Callable[[float], float]:
    """Return progress -> share of the peak rate.

    Raises:
        UnknownNameError: no such schedule.
        UserError: an option that it does not have or cannot take, or a file whose ENTRY is of another kind.
    """
    choice = settings.schedule
    entry = load_chosen("schedule", choice, ScheduleEntry, lambda entry: _options_of(entry.share))
    share = functools.partial(entry.share, final_ratio=settings.final_lr_ratio, **choice.options)
    share(1.0)  # an option that it cannot take is refused before anything runs
    return share


def _of_optimizer(entry: OptimizerEntry) -> list[str]:
    return _options_of(entry.build)


def _options_of(function: Callable[..., Any]) -> list[str]:
    """Return the names of an entry's options; both kinds are given two things before them."""
    return list(inspect.signature(function).parameters)[2:]
