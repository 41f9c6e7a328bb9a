"""All that one step of a training loop hands to the next, as named tensors and numbers; one process has all of it.

    weights.safetensors    parameters, and every buffer: also those that are no part of a saved model (experts' counts)
    optimizer.safetensors  `<parameter>/<what is remembered of it>`, and of a tensor subclass its parts behind that
    random.safetensors     states of the random number generators

Data order, schedule and what is watched are functions of the step's number.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from efficientllm.errors import ResultsError, Unsupported
from efficientllm.training.flatten import plain_tensors
from efficientllm.training.loop import TrainLoop
from efficientllm.training.tensor_file import read_tensors, tensor_names, write_tensors

WEIGHTS, OPTIMIZER, RANDOM = "weights.safetensors", "optimizer.safetensors", "random.safetensors"

#: Numbers of an optimiser: those of each parameter, those of each group.
Numbers = dict[str, Any]


def write_state(loop: TrainLoop, folder: Path) -> tuple[dict[str, int], Numbers]:
    """Write the files; return the CRC-32 of each, and the optimiser's numbers.

    Raises:
        Unsupported: the optimiser remembers something that is neither a tensor nor a number.
        OSError: they cannot be written.
    """
    checksums = {
        WEIGHTS: write_tensors(folder / WEIGHTS, _model_tensors(loop)),
        OPTIMIZER: write_tensors(folder / OPTIMIZER, dict(_optimizer_tensors(loop))),
        RANDOM: write_tensors(folder / RANDOM, random_states(loop)),
    }
    return checksums, {"of_parameters": _numbers(loop), "of_groups": group_numbers(loop.optimizer)}


def read_state(loop: TrainLoop, folder: Path, numbers: Numbers) -> None:
    """Put everything that `write_state` wrote into a loop that has taken no step.

    Raises:
        ResultsError: the files are whole, but of another model or optimiser.
    """
    _make_state(loop)
    _drop_state(loop, {*numbers["of_parameters"], *tensor_names(folder / OPTIMIZER)})
    _fill(dict(_optimizer_tensors(loop)), folder / OPTIMIZER)
    _fill(_model_tensors(loop), folder / WEIGHTS)  # after the step that made the optimiser's state
    for parameter, host in loop.hosts.items():
        if parameter.untyped_storage().nbytes():  # of a layer that is not on the device there is nothing else
            parameter.detach().copy_(host)
    _set_numbers(loop, numbers)
    set_random_states(loop, dict(read_tensors(folder / RANDOM)))


def random_states(loop: TrainLoop) -> dict[str, Tensor]:
    """Return the states of the generators that training may draw from: an optimiser that rounds by chance does."""
    states = {"cpu": torch.get_rng_state()}
    device = loop.decoder.device
    return states | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def set_random_states(loop: TrainLoop, states: Mapping[str, Tensor]) -> None:
    """Set the generators."""
    torch.set_rng_state(states["cpu"])
    if "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], loop.decoder.device)


def _model_tensors(loop: TrainLoop) -> dict[str, Tensor]:
    hosts = loop.hosts
    weights = {name: hosts.get(parameter, parameter).detach() for name, parameter in loop.decoder.named_parameters()}
    return weights | {f"buffer/{name}": buffer for name, buffer in loop.decoder.named_buffers()}


def _remembered(loop: TrainLoop) -> Iterator[tuple[str, Tensor, dict[str, Any]]]:
    """Yield the name of each trained parameter, what the optimiser knows it by, and what it remembers of it."""
    optimizer, hosts = loop.optimizer, loop.hosts
    for name, parameter in loop.decoder.named_parameters():
        known = hosts.get(parameter, parameter)
        if known in optimizer.state:
            yield name, known, optimizer.state[known]


def _optimizer_tensors(loop: TrainLoop) -> Iterator[tuple[str, Tensor]]:
    for name, _, remembered in _remembered(loop):
        for key, value in remembered.items():
            if isinstance(value, Tensor):
                yield from plain_tensors(f"{name}/{key}", value)


def _numbers(loop: TrainLoop) -> Numbers:
    found: Numbers = {}
    if len(list(_remembered(loop))) != len(loop.optimizer.state):
        raise Unsupported(
            "the optimiser remembers something of weights that are not the model's, which a checkpoint cannot hold: "
            "run it with checkpoint_every 0"
        )
    for name, _, remembered in _remembered(loop):
        for key, value in remembered.items():
            if isinstance(value, bool | int | float) or value is None:
                found[f"{name}/{key}"] = value
            elif not isinstance(value, Tensor):
                raise Unsupported(
                    f"optimizer {loop.settings.optimizer.name} remembers {key} as a {type(value).__name__}, which a "
                    "checkpoint cannot hold: run it with checkpoint_every 0"
                )
    return found


def group_numbers(optimizer: torch.optim.Optimizer) -> list[Numbers]:
    """Return the options of each group: some optimisers count in them."""
    return [
        {key: value.item() if isinstance(value, Tensor) else value for key, value in group.items() if key != "params"}
        for group in optimizer.param_groups
    ]


def set_group(group: dict[str, Any], saved: Numbers) -> None:
    """Set the options of a group, in the form in which it has them."""
    for key, value in saved.items():
        if isinstance(group[key], Tensor):
            group[key].fill_(value)
        else:
            group[key] = tuple(value) if isinstance(group[key], tuple) else value


@torch.no_grad()
def _make_state(loop: TrainLoop) -> None:
    """Let the optimiser make what it remembers, of the right types and in the right places, by a step that is undone.

    A tensor subclass comes into being in this way alone, and torch's own `load_state_dict` would cast moments to the
    weights' type.
    """
    optimizer = loop.optimizer
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def _drop_state(loop: TrainLoop, saved: Collection[str]) -> None:
    """Forget what was made for parameters that had never had a gradient when the checkpoint was written."""
    for name, known, _ in list(_remembered(loop)):
        if not any(key.startswith(f"{name}/") for key in saved):
            del loop.optimizer.state[known]


def _set_numbers(loop: TrainLoop, numbers: Numbers) -> None:
    for name, _, remembered in _remembered(loop):
        for key, value in remembered.items():
            if not isinstance(value, Tensor):
                remembered[key] = numbers["of_parameters"][f"{name}/{key}"]
    for group, saved in zip(loop.optimizer.param_groups, numbers["of_groups"], strict=True):
        set_group(group, saved)


@torch.no_grad()
def _fill(targets: Mapping[str, Tensor], path: Path) -> None:
    left = dict(targets)
    for name, tensor in read_tensors(path):
        target = left.pop(name, None)
        if target is None or target.shape != tensor.shape or target.dtype != tensor.dtype:
            raise ResultsError(
                f"{path} holds {name}, which this run has not, or of another form. Delete {path.parent}."
            )
        target.copy_(tensor)
    if left:
        raise ResultsError(f"{path} lacks {min(left)}. Delete {path.parent}.")
