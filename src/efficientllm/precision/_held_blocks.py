"""Blocks as a layer holds them: in buffers of whole numbers, which no cast of the model rounds."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from efficientllm.precision._blocks import Blocks

#: Buffers hold the bits of floats as whole numbers, so that no cast of the model changes them.
_BITS = {torch.float32: torch.int32, torch.bfloat16: torch.int16, torch.float16: torch.int16}

#: The layer's buffers: the fields of `Blocks`.
Fields = tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None]


class HeldBlocks(nn.Module):
    """What layers of a matrix in blocks share: a dense layer besides, whose `out_features` and `in_features` it has."""

    out_features: int
    in_features: int

    def hold(self, packed: Blocks, size: int) -> None:
        """Take blocks of so many numbers into buffers."""
        self.block_size = size
        self._kinds: dict[str, torch.dtype] = {}
        for name, tensor in packed._asdict().items():
            if tensor is not None and tensor.dtype in _BITS:
                self._kinds[name] = tensor.dtype
                tensor = tensor.view(_BITS[tensor.dtype])
            self.register_buffer(name, tensor)

    def packed(self) -> Blocks:
        """Return what is held; a change of it in place is one of the matrix."""
        return Blocks(*self.fields())

    def fields(self) -> Fields:
        """Return what is held, as an operator takes it."""
        found = []
        for name in Blocks._fields:
            tensor = getattr(self, name)
            found.append(tensor.view(self._kinds[name]) if name in self._kinds else tensor)
        return tuple(found)

    def form(self) -> tuple[int, int, int]:
        """Return the numbers of a block, and rows and columns of the matrix."""
        return self.block_size, self.out_features, self.in_features
