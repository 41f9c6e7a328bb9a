"""An optimiser in the host's memory: its state and a copy of the weights live there, and its steps are taken there.

    device    backward pass: a gradient is complete ──► copied down while the pass goes on
    host      norm, then a step, some weights at a time ──► copied up while the next ones are stepped

The device keeps weights and activations; its gradients are gone as soon as they are copied. Source: ZeRO-Offload,
arXiv:2101.06840. All of it runs on a processor too, as plain copies, so that it can be held to the optimiser itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from efficientllm.errors import Unsupported
from efficientllm.records.training_settings import TrainingSettings
from efficientllm.training.clipping import scale_gradients
from efficientllm.training.optimizers._contract import Groups

#: Weights that are stepped before they begin to travel up: enough to hide the start of a copy.
_CHUNK_BYTES = 64 * 1024**2


class Lane:
    """Copies between host and device beside what the device computes; on a processor they are made at once."""

    def __init__(self, device: torch.device) -> None:
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    @contextmanager
    def beside(self) -> Iterator[None]:
        """Queue what is inside on the lane, behind all that the device has been given so far."""
        if self.stream is None:
            yield
            return
        self.stream.wait_stream(torch.cuda.current_stream(self.stream.device))
        with torch.cuda.stream(self.stream):
            yield

    def mark(self) -> torch.cuda.Event | None:
        """Return a mark behind what is on the lane, for `wait`."""
        return None if self.stream is None else self.stream.record_event()

    def wait(self, mark: torch.cuda.Event | None) -> None:
        """Let what the device is given from now on wait for a mark."""
        if mark is not None and self.stream is not None:
            torch.cuda.current_stream(self.stream.device).wait_event(mark)

    def finish(self) -> None:
        """Let the host wait until the lane is empty."""
        if self.stream is not None:
            self.stream.synchronize()

    def used(self, tensor: Tensor) -> None:
        """Keep the memory of a tensor that is given up now until the lane is done with it."""
        if self.stream is not None:
            tensor.record_stream(self.stream)


class HostOptimizer:
    """Steps on host copies of the parameters; to the training loop it looks like one of torch's optimisers.

    It clips by itself: when the last gradient, and with it the norm, is known, the others have left the device.

    Args:
        groups: parameter groups, on the device.
        build: makes the optimiser of groups of host parameters.
        settings: `passes` and `clip_norm` count.
        homes: parameter -> its weights in the host's memory, for those that `streaming.py` brings to the device when
            they are due: nothing of them stays there, gradients of earlier passes included.

    Attributes:
        inner: the optimiser itself.
        hosts: parameter -> the one that counts in its place, in the host's memory.
    """

    def __init__(
        self,
        groups: Groups,
        build: Callable[[Groups], torch.optim.Optimizer],
        settings: TrainingSettings,
        homes: Mapping[nn.Parameter, Tensor] | None = None,
    ) -> None:
        self._homes = homes or {}
        self._passes, self._clip_norm = settings.passes, settings.clip_norm
        parameters = [p for group in groups for p in group["params"]]
        self.hosts = {p: self._host(p) for p in parameters}
        self._gradients = {p: _pinned_like(p) for p in self.hosts}
        self.inner = build([{**group, "params": [self.hosts[p] for p in group["params"]]} for group in groups])
        device = parameters[0].device
        self._down, self._up = Lane(device), Lane(device)
        self._chunks = list(_chunks(parameters))
        self._num_complete = dict.fromkeys(self.hosts, 0)
        self._norms: dict[nn.Parameter, Tensor] = {}
        for parameter in self.hosts:
            parameter.register_post_accumulate_grad_hook(self._complete)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of host parameters, which hold the rate."""
        return self.inner.param_groups

    @torch.no_grad()
    def step(self) -> None:
        """Change the weights by the gradients of this step, and bring them to the device."""
        for parameter in self.hosts:
            if parameter.grad is not None:  # it took part in fewer passes than the others
                self._send(parameter)
        self._down.finish()
        norm = self._norm()
        for chunk in self._chunks:
            self._step_chunk([p for p in chunk if p in self._norms], norm)
        self._up.wait(self._up.mark())
        self._norms.clear()
        self._num_complete = dict.fromkeys(self.hosts, 0)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Do nothing: `step` uses the gradients up."""

    def _host(self, parameter: nn.Parameter) -> nn.Parameter:
        home = self._homes.get(parameter)
        if home is None:
            home = _pinned_like(parameter).copy_(parameter.detach())
        return nn.Parameter(home, requires_grad=parameter.requires_grad)

    def _complete(self, parameter: Tensor) -> None:
        """Autograd has added a pass's gradient."""
        assert isinstance(parameter, nn.Parameter)
        self._num_complete[parameter] += 1
        if parameter in self._homes or self._num_complete[parameter] == self._passes:
            self._send(parameter)

    @torch.no_grad()
    def _send(self, parameter: nn.Parameter) -> None:
        """Copy a gradient down, on top of what earlier passes have sent."""
        gradient, parameter.grad = parameter.grad, None
        assert gradient is not None
        kept = self._gradients[parameter]
        with self._down.beside():
            total = gradient
            if parameter in self._norms:
                total = kept.to(gradient.device, non_blocking=True, copy=True).add_(gradient)
            self._norms[parameter] = torch.linalg.vector_norm(total, dtype=torch.float32)
            kept.copy_(total, non_blocking=True)
        self._down.used(gradient)

    def _norm(self) -> Tensor | None:
        """Return the norm of all gradients, on the host; None if nobody asks for it."""
        if not self._clip_norm or not self._norms:
            return None
        norms = [self._norms[p] for p in self.hosts if p in self._norms]
        norm: Tensor = torch.linalg.vector_norm(torch.stack(norms))
        return norm.cpu()

    def _step_chunk(self, chunk: list[nn.Parameter], norm: Tensor | None) -> None:
        """Step those parameters alone: the optimiser passes by what has no gradient."""
        if not chunk:
            return
        for parameter in chunk:
            self.hosts[parameter].grad = self._gradients[parameter]
        if norm is not None:
            scale_gradients(self.inner, [self.hosts[p] for p in chunk], norm, self._clip_norm)
        self.inner.step()
        for parameter in chunk:
            self.hosts[parameter].grad = None
        with self._up.beside():
            for parameter in chunk:
                if parameter not in self._homes:
                    parameter.copy_(self.hosts[parameter], non_blocking=True)


def building_device(settings: TrainingSettings, device: torch.device) -> torch.device:
    """Return where a model is built: in the host's memory if its weights are to stay there, else on the device.

    Raises:
        Unsupported: an offload that moves nothing, or one over several ranks.
    """
    if settings.offload == "none":
        return device
    if device.type == "cpu":
        raise Unsupported(f"offload {settings.offload}: the weights live in the host's memory already")
    if settings.ranks > 1:
        raise Unsupported(
            f"offload {settings.offload} with ranks {settings.ranks}: only one rank's optimiser can live in the host's "
            "memory; sharding over ranks saves the same memory. Set one of the two"
        )
    return torch.device("cpu") if settings.offload == "weights" else device


def _pinned_like(tensor: Tensor) -> Tensor:
    """Return an empty tensor in the host's memory, which a device can read and write by itself."""
    pinned = tensor.device.type != "cpu"
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=pinned)


def _chunks(parameters: list[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Cut parameters into lists of about the same bytes, in order."""
    chunk: list[nn.Parameter] = []
    for parameter in parameters:
        chunk.append(parameter)
        if sum(p.nbytes for p in chunk) >= _CHUNK_BYTES:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
