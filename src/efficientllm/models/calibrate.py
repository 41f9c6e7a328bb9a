"""What goes into the dense layers of a decoder on calibration text, for number formats that are fitted to it.

As in GPTQ the blocks come one after the other, and a block sees what the packed blocks before it let through.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from efficientllm.data.order import TrainOrder
from efficientllm.data.packing import TokenFile
from efficientllm.models.block import Block
from efficientllm.models.decoder import Decoder
from efficientllm.models.part import compute_dtype
from efficientllm.precision.pack import calibration_tokens
from efficientllm.records.choice import Choice

#: Tokens that pass a block at once: bounds the memory of activations.
_AT_ONCE = 4096

#: `pack(block, moments)`: packs a block's layers, given the mean of x xᵀ over the inputs of each.
Pack = Callable[[Block, dict[nn.Module, Tensor]], None]


def calibration_rows(choice: Choice, train: TokenFile, sequence_tokens: int, seed: int) -> Tensor | None:
    """Return rows of training text, int64 BT, that a format wants to see; None if it packs without.

    Whole rows, chosen by the seed: as many as its `calibration_tokens` fill, at least one, at most all there are.

    Args:
        choice: the format.
        train: the training split.
        sequence_tokens: of a row.
        seed: of the choice.

    Raises:
        UnknownNameError: no such format.
        UserError: an option that it does not have.
    """
    wanted = calibration_tokens(choice)
    if not wanted:
        return None
    order = TrainOrder(num_tokens=train.num_tokens, sequence_tokens=sequence_tokens, seed=seed)
    rows = min(max(1, wanted // sequence_tokens), order.rows_per_epoch)
    return torch.from_numpy(train.rows(order.rows(0, rows), sequence_tokens)[:, :-1]).clone()


@torch.no_grad()
def pack_block_by_block(decoder: Decoder, rows_BT: Tensor, pack: Pack) -> None:
    """Let calibration text through a decoder, packing each block before the text goes on.

    Held are the residual stream of all rows, in the decoder's type, and one block's moments.

    Raises:
        Unsupported: rows longer than the position encoding reaches.
    """
    decoder.position.check_length(rows_BT.shape[1])
    index_BT = torch.arange(rows_BT.shape[1], device=decoder.device)[None]
    positions = decoder.position.at(index_BT, compute_dtype(decoder.embed.weight))
    parts = rows_BT.to(decoder.device).split(max(1, _AT_ONCE // rows_BT.shape[1]))
    streams = [decoder.position.embed(decoder.embed(part_BT), index_BT) for part_BT in parts]
    with _still(decoder):
        for number in range(decoder.shape.num_layers):
            block = decoder.block(number)
            moments = _Moments(block)
            for x_BTD in streams:
                with moments.watching():
                    block(x_BTD, positions, None, None)
            pack(block, moments.taken())
            for i, x_BTD in enumerate(streams):
                streams[i] = block(x_BTD, positions, None, None)


class _Moments:
    """Sums of x xᵀ over the inputs of a block's dense layers; layers that read the same tensor share one."""

    def __init__(self, block: Block) -> None:
        self._layers = [layer for layer in block.modules() if isinstance(layer, nn.Linear)]
        self._sums: dict[nn.Module, Tensor] = {}
        self._counts: dict[nn.Module, int] = {}
        self._source: dict[nn.Module, nn.Module] = {}
        self._now: list[tuple[Tensor, nn.Module]] = []

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Return a region in which the block's forward pass is counted."""
        hooks = [layer.register_forward_pre_hook(self._see) for layer in self._layers]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
            self._now.clear()

    def taken(self) -> dict[nn.Module, Tensor]:
        """Return the means, by layer, and keep nothing; a layer that the text never reached has none."""
        means = {layer: total.div_(max(1, self._counts[layer])) for layer, total in self._sums.items()}
        by_layer = {layer: means[source] for layer, source in self._source.items()}
        for kept in (self._layers, self._sums, self._counts, self._source):
            kept.clear()
        return by_layer

    def _see(self, layer: nn.Module, given: tuple[Any, ...]) -> None:
        x = given[0]
        for other, source in self._now:  # these are kept: no other tensor can take their place in memory
            if other is x and self._source.get(layer, source) is source:
                self._source[layer] = source
                return
        self._now.append((x, layer))
        self._source[layer] = layer
        x_MI = x.detach().flatten(0, -2).float()
        if layer not in self._sums:
            self._sums[layer] = x_MI.new_zeros(x_MI.shape[1], x_MI.shape[1])
        self._sums[layer].addmm_(x_MI.t(), x_MI)
        self._counts[layer] = self._counts.get(layer, 0) + len(x_MI)


@contextmanager
def _still(decoder: Decoder) -> Iterator[None]:
    """Return a region in which the decoder does not train."""
    training = decoder.training
    decoder.eval()
    try:
        yield
    finally:
        decoder.train(training)
