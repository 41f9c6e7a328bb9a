"""Operators on packed matrices that have kernels of this package on CUDA; the plain forms say what they compute.

Each is an operator of its own so that a compiler sees one step, whatever the device.

M  rows    O  outputs    I  inputs    B  bytes of 4-bit codes along the inputs, I / 2    G  groups along the inputs
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from efficientllm.precision._blocks import Blocks, plain_matrix


@torch.library.custom_op("efficientllm::int4_rows", mutates_args=())
def int4_rows(x_MI: Tensor, codes_OB: Tensor, pairs_GO: Tensor) -> Tensor:
    """Return x Wᵀ of few rows in bfloat16, in which the matrix is read packed."""
    if x_MI.device.type != "cuda":
        return F.linear(x_MI, plain_int4_matrix(codes_OB, pairs_GO, x_MI.dtype))
    found: Tensor = _PRODUCTS.int4_rows(x_MI, codes_OB, pairs_GO)
    return found


@int4_rows.register_fake
def _(x_MI: Tensor, codes_OB: Tensor, pairs_GO: Tensor) -> Tensor:
    return x_MI.new_empty(len(x_MI), len(codes_OB))


@torch.library.custom_op("efficientllm::int4_matrix", mutates_args=())
def int4_matrix(codes_OB: Tensor, pairs_GO: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the matrix, OI in this type."""
    if codes_OB.device.type != "cuda" or not HAS_KERNELS:
        return plain_int4_matrix(codes_OB, pairs_GO, dtype)
    found: Tensor = _MATRICES.int4_matrix(codes_OB, pairs_GO, dtype)
    return found


@int4_matrix.register_fake
def _(codes_OB: Tensor, pairs_GO: Tensor, dtype: torch.dtype) -> Tensor:
    return codes_OB.new_empty(len(codes_OB), 2 * codes_OB.shape[1], dtype=dtype)


def plain_int4_matrix(codes_OB: Tensor, pairs_GO: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the matrix: a byte holds a code of a group's first half (below) and one of its second; OI in this type."""
    num_groups, num_outputs = pairs_GO.shape
    codes_OGH = codes_OB.view(num_outputs, num_groups, -1)
    both_OGS = torch.cat((codes_OGH & 15, codes_OGH >> 4), -1).float() - 8
    scales_OG, lows_OG = pairs_GO.view(torch.bfloat16).view(num_groups, num_outputs, 2).float().permute(2, 1, 0)
    return torch.addcmul(lows_OG[..., None], both_OGS, scales_OG[..., None]).reshape(num_outputs, -1).to(dtype)


@torch.library.custom_op("efficientllm::table_rows", mutates_args=())
def table_rows(
    x_MI: Tensor,
    codes_P: Tensor,
    values: Tensor,
    scales_K: Tensor,
    lows_K: Tensor | None,
    offsets_G: Tensor | None,
    factors_G: Tensor | None,
    lookup: str,
    size: int,
    num_outputs: int,
) -> Tensor:
    """Return x Wᵀ of few rows in bfloat16; after x the fields of `Blocks`, then `table_assembly` of the values."""
    packed = Blocks(codes_P, values, scales_K, lows_K, offsets_G, factors_G)
    if x_MI.device.type != "cuda":
        return F.linear(x_MI, plain_matrix(packed, size, num_outputs, x_MI.shape[1], x_MI.dtype))
    found: Tensor = _TABLES.table_rows(x_MI, packed, lookup, size, num_outputs)
    return found


@table_rows.register_fake
def _(
    x_MI: Tensor,
    codes_P: Tensor,
    values: Tensor,
    scales_K: Tensor,
    lows_K: Tensor | None,
    offsets_G: Tensor | None,
    factors_G: Tensor | None,
    lookup: str,
    size: int,
    num_outputs: int,
) -> Tensor:
    return x_MI.new_empty(len(x_MI), num_outputs)


def table_assembly(values: tuple[float, ...]) -> str:
    """Return the instructions that look a code's value up, for `table_rows`."""
    found: str = _TABLES.assembly(values)
    return found


@torch.library.custom_op("efficientllm::byte_rows", mutates_args=())
def byte_rows(
    x_MI: Tensor, codes_OI: Tensor, scales_O: Tensor, row_scales_M: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """Return x Wᵀ of few rows in this type, a row of W being codes times their scale.

    Args:
        x_MI: in bfloat16; or, with `row_scales_M`, in the type of the codes.
        codes_OI: int8 or float8.
        scales_O: of each row of the matrix.
        row_scales_M: of each row of x, float32.
        dtype: of the result.
    """
    if x_MI.device.type != "cuda":
        found_MO = F.linear(x_MI.float(), codes_OI.float()) * scales_O.float()
        return (found_MO if row_scales_M is None else found_MO * row_scales_M[:, None]).to(dtype)
    found: Tensor = _PRODUCTS.byte_rows(x_MI, codes_OI, scales_O, row_scales_M, dtype)
    return found


@byte_rows.register_fake
def _(x_MI: Tensor, codes_OI: Tensor, scales_O: Tensor, row_scales_M: Tensor | None, dtype: torch.dtype) -> Tensor:
    return x_MI.new_empty(len(x_MI), len(codes_OI), dtype=dtype)


@torch.library.custom_op("efficientllm::quantised_rows", mutates_args=())
def quantised_rows(x_MI: Tensor, kind: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return rows as 8-bit floats, and the scale of each, M1 in float32: the largest number takes the largest code."""
    if x_MI.device.type != "cuda" or not HAS_KERNELS:
        return plain_quantised_rows(x_MI, kind)
    found: tuple[Tensor, Tensor] = _MATRICES.quantised(x_MI, kind)
    return found


@quantised_rows.register_fake
def _(x_MI: Tensor, kind: torch.dtype) -> tuple[Tensor, Tensor]:
    return x_MI.new_empty(x_MI.shape, dtype=kind), x_MI.new_empty(len(x_MI), 1, dtype=torch.float32)


def plain_quantised_rows(x_MI: Tensor, kind: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return codes and scales of rows."""
    largest = torch.finfo(kind).max
    scales_M1 = x_MI.abs().amax(1, keepdim=True).float() / largest
    # A row of zeros, or nearly: any scale serves, but none may be so small that its inverse is not a number.
    scales_M1 = scales_M1.clamp(min=torch.finfo(torch.float32).tiny)
    return (x_MI.float() / scales_M1).clamp(-largest, largest).to(kind), scales_M1


def rows_matrix(codes_OI: Tensor, scales_O: Tensor, dtype: torch.dtype) -> Tensor:
    """Return codes times the scale of their row, OI in this type; no operator of its own, for use inside of one."""
    if codes_OI.device.type != "cuda" or not HAS_KERNELS:
        return (codes_OI.float() * scales_O.float()[:, None]).to(dtype)
    found: Tensor = _MATRICES.rows_matrix(codes_OI, scales_O, dtype)
    return found


def _load(name: str) -> Any:
    """Return a module of kernels, or None where torch knows no CUDA or Triton is missing."""
    if torch.version.cuda is None:
        return None
    try:
        return importlib.import_module(f"efficientllm.precision.{name}")
    except ImportError:
        return None


_PRODUCTS, _TABLES, _MATRICES = map(_load, ("_few_rows_kernel", "_table_rows_kernel", "_packed_rows_kernel"))
#: Whether there are kernels: without them few rows are multiplied as many are.
HAS_KERNELS = _PRODUCTS is not None
