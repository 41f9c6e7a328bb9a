"""Products of 4-bit matrices, held in the layout of the kernel that multiplies few rows by them.

On a processor that is torch's own. Its layout differs between processors; so that the matrix can be read back, for many
rows and for comparison, torch is asked: panels of known numbers are packed, and where these then lie tells the order.
On CUDA it is a kernel of this package (`_few_rows_kernel.py`): torch's reaches 27 to 44 % of the memory's bandwidth.

    N  rows, filled up    T  panels of rows    G  groups along the input    B  bytes of a row    O, I  as ever
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from efficientllm.errors import Unsupported
from efficientllm.precision._blocks import Blocks, split_codes
from efficientllm.precision._packed_product import HAS_KERNELS, int4_matrix, int4_rows
from efficientllm.precision._served import ServedLinear

#: Groups that the kernels know.
GROUPS = (32, 64, 128, 256)

#: Rows are filled up to a multiple of this on a processor: its kernel wants it.
_ROW_STEP = 16

#: Rows up to which the kernels are faster than to make the matrix in bfloat16 and multiply. On a processor with matrix
#: units for bfloat16 (2048 × 2048, one thread) the kernel took .09 ms a row up to 32 rows and .15 ms at 64, the other
#: way 6 to 14 ms. CUDA's takes 64 rows at once and reads the matrix anew for the next 64.
_FEW_ROWS = {"cpu": 64, "cuda": 128 if HAS_KERNELS else 0}

_OPS = torch.ops.aten


def served_int4(
    packed: Blocks, group: int, shape: tuple[int, int], dtype: torch.dtype, bias: Tensor | None
) -> ServedLinear:
    """Return the layer of blocks whose values are the whole numbers from -8 to 7.

    Raises:
        Unsupported: the blocks are no groups along the input that the kernels know, or the device has no kernel.
    """
    if group not in GROUPS or shape[1] % group:
        fitting = [str(size) for size in GROUPS if shape[1] % size == 0]
        choose = f"choose from {', '.join(fitting)}" if fitting else "no other fits either"
        raise Unsupported(f"groups of {group} in a layer of {shape[1]} inputs: torch's int4 product has none; {choose}")
    kinds: dict[str, type[_Int4Linear]] = {"cpu": _OnProcessor, "cuda": _OnCuda}
    if packed.codes.device.type not in kinds:
        raise Unsupported(f"torch has no int4 product on {packed.codes.device.type}")
    return kinds[packed.codes.device.type](packed, group, shape, dtype, bias)


class _Int4Linear(ServedLinear):
    """Codes in the device's layout; for each group its pair, scale and zero, in bfloat16."""

    def __init__(
        self, packed: Blocks, group: int, shape: tuple[int, int], dtype: torch.dtype, bias: Tensor | None
    ) -> None:
        super().__init__(shape, dtype, bias)
        out_features, in_features = shape
        missing = -out_features % self.row_step
        assert packed.lows is not None
        pairs_GN2 = torch.stack((packed.scales, packed.lows), -1).view(out_features, -1, 2).transpose(0, 1)
        pairs_GN2 = F.pad(pairs_GN2, (0, 0, 0, missing)).contiguous()
        codes_NB = F.pad(packed.codes.view(out_features, in_features // 2), (0, 0, 0, missing))
        self.group, self.few_rows = group, _FEW_ROWS[codes_NB.device.type]
        self.register_buffer("codes", self.laid_out(codes_NB))
        self.register_buffer("pairs", pairs_GN2.view(torch.int32)[..., 0])  # as bits, so that no cast changes them
        self.codes: Tensor
        self.pairs: Tensor

    row_step = 1

    def laid_out(self, codes_NB: Tensor) -> Tensor:
        """Return codes, two a byte with the first in the lower half, in the kernel's layout."""
        raise NotImplementedError

    def scales_and_zeros(self) -> Tensor:
        """Return the pairs, GN2 in bfloat16."""
        bits_GN2: Tensor = self.pairs[..., None].view(torch.bfloat16)
        return bits_GN2


class _OnProcessor(_Int4Linear):
    """Panels of rows, as many as the processor's registers hold; in a panel column after column."""

    row_step = _ROW_STEP

    def laid_out(self, codes_NB: Tensor) -> Tensor:
        """Return the codes in the kernel's layout."""
        codes_NI = split_codes(codes_NB.flatten()).view(len(codes_NB), -1)
        self.panel = _panel_rows()
        # Asked here, once: a compiler must not look into the asking.
        self.orders = {rows: _panel_order(rows) for rows in (self.panel, len(codes_NB) % self.panel) if rows}
        packed: Tensor = _OPS._convert_weight_to_int4pack_for_cpu(codes_NI, 1)
        return packed

    def few(self, x_MI: Tensor) -> Tensor:
        """Return x Wᵀ by torch's kernel."""
        pairs_GN2 = self.scales_and_zeros()
        out_MN: Tensor = _OPS._weight_int4pack_mm_for_cpu(x_MI, self.codes, self.group, pairs_GN2)
        return out_MN[:, : self.out_features]

    def matrix(self, dtype: torch.dtype) -> Tensor:
        """Return the matrix, OI in this type."""
        panel, num_rows = self.panel, len(self.codes)
        whole = num_rows // panel * panel
        flat_B, cut = self.codes.flatten(), whole * self.in_features // 2
        panels_IN = [
            self._panels(part_B, rows) for part_B, rows in ((flat_B[:cut], panel), (flat_B[cut:], num_rows - whole))
            if len(part_B)
        ]  # fmt: skip
        codes_IN = torch.cat(panels_IN, 1) if len(panels_IN) > 1 else panels_IN[0]
        # One after the other, not in pairs: a processor reads them side by side three times faster.
        scale_G1N, zero_G1N = self.scales_and_zeros()[:, None].to(dtype).movedim(-1, 0).contiguous()
        codes_GSN = codes_IN.to(dtype).view(-1, self.group, num_rows)
        found_GSN = torch.addcmul(zero_G1N, codes_GSN, scale_G1N)  # one rounding
        return found_GSN.view(-1, num_rows)[:, : self.out_features].t()

    def _panels(self, bytes_B: Tensor, rows: int) -> Tensor:
        """Return numbers from -8 to 7 of panels of so many rows, input by row."""
        bytes_TIB = bytes_B.view(-1, self.in_features, rows // 2)
        halves_TIN = torch.cat((bytes_TIB & 15, bytes_TIB >> 4), -1).to(torch.int8) - 8
        order = self.orders[rows]
        if order is not None:
            halves_TIN = halves_TIN.index_select(-1, order)
        return halves_TIN.transpose(0, 1).reshape(self.in_features, -1)


class _OnCuda(_Int4Linear):
    """A byte of a row holds a code of a group's first half, and in its upper bits one of its second half."""

    def laid_out(self, codes_NB: Tensor) -> Tensor:
        """Return the codes in the kernel's layout."""
        codes_NGS = split_codes(codes_NB.flatten()).to(torch.uint8).view(len(codes_NB), -1, self.group)
        first_NGH, second_NGH = codes_NGS.chunk(2, -1)
        return (first_NGH | second_NGH << 4).flatten(1)

    def few(self, x_MI: Tensor) -> Tensor:
        """Return x Wᵀ by the kernel."""
        out_MO: Tensor = int4_rows(x_MI, self.codes, self.pairs)
        return out_MO

    def matrix(self, dtype: torch.dtype) -> Tensor:
        """Return the matrix, OI in this type."""
        made: Tensor = int4_matrix(self.codes, self.pairs, dtype)
        return made


def nibble_places(pack: Callable[[Tensor], Tensor], rows: int, columns: int, device: torch.device) -> Tensor:
    """Return, for every half byte of a packed tile in order, which number of the tile it holds.

    Args:
        pack: from codes `[rows, columns]`, int32 from 0 to 15, to the packed tile.
        rows: of a tile.
        columns: of a tile.
        device: where it is packed.
    """
    place = torch.arange(rows * columns, dtype=torch.int32, device=device).view(rows, columns)
    found = torch.zeros(rows * columns, dtype=torch.int32, device=device)
    for shift in range(0, (rows * columns - 1).bit_length(), 4):
        found |= split_codes(pack(place >> shift & 15).flatten().view(torch.uint8)) << shift
    return found


@lru_cache
def _panel_rows() -> int:
    """Return how many rows a panel of this processor has: twice the bytes from a column to the next."""
    probe = torch.zeros(2, 256, 2, dtype=torch.int32)
    probe[0, 0, 0] = probe[1, 0, 1] = 1
    first, second = (_OPS._convert_weight_to_int4pack_for_cpu(one, 1).flatten().argmax() for one in probe)
    return 2 * int(second - first)


@lru_cache
def _panel_order(rows: int) -> Tensor | None:
    """Return where each row of a panel lies among its lower halves and then its upper ones; None for one by one."""
    places = nibble_places(
        lambda codes: _OPS._convert_weight_to_int4pack_for_cpu(codes, 1), rows, 2, torch.device("cpu")
    )
    column = places[:rows].view(-1, 2).t().flatten() // 2  # of the first column, halves apart
    return None if torch.equal(column, torch.arange(rows, dtype=column.dtype)) else column.argsort()
