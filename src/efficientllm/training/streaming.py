"""Layers whose weights live in the host's memory and are on the device only while they are due.

    forward     layer 1 computes │ layer 2 computes │ …        backward    layer n computes │ layer n-1 …
    copies      layer 2 comes    │ layer 3 comes    │ …        copies      layer n-1 comes  │ …
                                 │ layer 1 goes                                             │ layer n goes

At most two layers are there at a time. What is outside of layers (token vectors, head, last norm) stays on the device.

A weight is one tensor throughout, so that autograd's graph, the optimiser and compiled code may hold on to it: what
comes and goes is the memory behind it. A layer that goes is not copied: the host's weights are the ones that count.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from efficientllm.models.decoder import Decoder
from efficientllm.training.offload import Lane


class _Layer:
    """One layer's weights: where they live, and whether they are on the device."""

    def __init__(self, block: nn.Module, device: torch.device) -> None:
        # what is not trained is small, and changed by the layer itself where it is: it stays on the device
        self.homes = {p: _home(p, device) for p in block.parameters() if p.requires_grad}
        for parameter in self.homes:
            parameter.data = torch.empty(0, dtype=parameter.dtype)
        block.to(device)  # all else
        for parameter, home in self.homes.items():
            parameter.data = torch.empty(home.shape, dtype=home.dtype, device=device)
        self.here, self.in_backward = True, False
        self._arrived: torch.cuda.Event | None = None
        self.leave()

    def come(self, lane: Lane) -> None:
        """Begin to copy the weights to the device, unless they are there or on their way."""
        if self.here:
            return
        for parameter in self.homes:  # the memory is of the computing stream: it is given back in that order
            parameter.untyped_storage().resize_(parameter.nbytes)
        with torch.no_grad(), lane.beside():
            for parameter, home in self.homes.items():
                parameter.data.copy_(home, non_blocking=True)  # `data`: to autograd the weight is what it was
        self._arrived = lane.mark()
        self.here = True

    def be_here(self, lane: Lane) -> None:
        """Let the device's next work find the weights."""
        self.come(lane)
        lane.wait(self._arrived)

    def leave(self) -> None:
        """Give up the memory on the device."""
        for parameter in self.homes:
            parameter.untyped_storage().resize_(0)
        self.here = self.in_backward = False


class StreamedLayers:
    """A decoder's layers, streamed.

    Args:
        decoder: in the host's memory, its layers compiled if they are to be; everything but the layers' weights is
            moved to the device.
        device: where it computes.
    """

    def __init__(self, decoder: Decoder, device: torch.device) -> None:
        self._lane = Lane(device)
        blocks = [decoder.block(number) for number in range(decoder.shape.num_layers)]
        self._layers = [_Layer(block, device) for block in blocks]
        for part in (decoder.embed, decoder.position, decoder.norm, decoder.head):
            if part is not None:
                part.to(device)
        for number, block in enumerate(blocks):
            call = block._compiled_call_impl or block._call_impl
            block._compiled_call_impl = functools.partial(self._call, number, call)

    @property
    def homes(self) -> dict[nn.Parameter, Tensor]:
        """Parameter -> its weights in the host's memory."""
        return {parameter: home for layer in self._layers for parameter, home in layer.homes.items()}

    @property
    def num_here(self) -> int:
        """Layers that are on the device now, or on their way there."""
        return sum(layer.here for layer in self._layers)

    @contextmanager
    def at_rest(self) -> Iterator[None]:
        """Let the layers' parameters be the host's weights, to be read or filled; the decoder cannot compute then."""
        self.leave()
        before = {parameter: parameter.data for parameter in self.homes}
        for parameter, home in self.homes.items():
            parameter.data = home
        try:
            yield
        finally:
            for parameter, data in before.items():
                parameter.data = data

    def leave(self) -> None:
        """Give up what is on the device still: the weights are about to change."""
        for layer in self._layers:
            if layer.here:
                layer.leave()

    def _call(self, number: int, call: Callable[..., Tensor], x_BTD: Tensor, *more: Any) -> Tensor:
        """Compute a layer; its weights are brought before, those of the next one meanwhile."""
        layer = self._layers[number]
        layer.be_here(self._lane)
        if layer.in_backward:  # checkpointing computes it once more: who called the backward pass sees to the weights
            return call(x_BTD, *more)
        if number + 1 < len(self._layers):
            self._layers[number + 1].come(self._lane)
        out_BTD = call(x_BTD, *more)
        if not out_BTD.requires_grad:
            layer.leave()
            return out_BTD
        out_BTD.register_hook(functools.partial(self._before_backward, number))
        if number == 0 and x_BTD.requires_grad:
            x_BTD.register_hook(lambda _: self.leave())
        if number + 1 < len(self._layers):  # the last one's backward pass comes next
            layer.leave()
        return out_BTD

    def _before_backward(self, number: int, _: Tensor) -> None:
        """The gradient of a layer's result is complete, and with it all that the layers behind had to do."""
        for behind in self._layers[number + 1 :]:
            if behind.here:
                behind.leave()
        layer = self._layers[number]
        layer.be_here(self._lane)
        layer.in_backward = True
        if number:
            self._layers[number - 1].come(self._lane)


def _home(parameter: Tensor, device: torch.device) -> Tensor:
    """Return a parameter's weights in host memory that the device reads by itself."""
    return parameter.detach().pin_memory() if device.type != "cpu" else parameter.detach()
