"""Ways to compute the chosen experts, all with the same result and none that drops a token.

    grouped    tokens sorted by expert, one grouped product for all experts; the device alone knows the group sizes
    split      tokens sorted by expert, a product for each expert; the host reads the group sizes
    gathered   the weights of each (token, expert) pair copied out; fixed shapes, for few tokens
    masked     every expert over all tokens, weighed by 0 where it was not chosen; fixed shapes

Weights are `[expert, out, in]`; gate and up of an expert are one matrix, in this order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from efficientllm.models.mlp._gated import gated_down, serves

#: Sorted rows and where each expert's end -> the experts' results.
Products = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]

#: torch's grouped product wants rows of a multiple of so many bytes, and fewer groups than this.
_ROW_BYTES, _MOST_GROUPS = 16, 1024

#: Compute capabilities on which it is one kernel; on others torch loops over the groups and waits for the device.
_GROUPED_MAJORS = (9, 10)
_HAS_GROUPED = hasattr(F, "grouped_mm")  # torch 2.10


class Order(NamedTuple):
    """The (token, expert) pairs sorted by expert.

    Attributes:
        pair_P: sorted place -> pair; inverse_P: pair -> sorted place; token_P: sorted place -> token.
        ends_E: place after the last pair of each expert, int32.
    """

    pair_P: Tensor  # noqa: N815 - a shape suffix
    inverse_P: Tensor  # noqa: N815
    token_P: Tensor  # noqa: N815
    ends_E: Tensor  # noqa: N815


def sort_by_expert(chosen_MA: Tensor, num_experts: int) -> Order:
    """Return the order of the pairs, worked out on the device."""
    sorted_P, pair_P = chosen_MA.flatten().sort(stable=True)
    places_P = torch.arange(len(pair_P), device=pair_P.device)
    inverse_P = torch.empty_like(pair_P).scatter_(0, pair_P, places_P)
    experts_E = torch.arange(num_experts, device=pair_P.device)
    ends_E = torch.searchsorted(sorted_P, experts_E, right=True, out_int32=True)
    return Order(pair_P, inverse_P, pair_P // chosen_MA.shape[1], ends_E)


def sorted_experts(
    x_MD: Tensor, chosen_MA: Tensor, weights_MA: Tensor, gate_up_E2FD: Tensor, down_EDF: Tensor, products: Products
) -> Tensor:
    """Return the weighed sum of each token's experts, MD, by `grouped_products` or `split_products`."""
    order = sort_by_expert(chosen_MA, gate_up_E2FD.shape[0])
    rows_PD: Tensor = _Dispatch.apply(x_MD, order.token_P, order.inverse_P)  # type: ignore[no-untyped-call]
    results_PD = products(rows_PD, order.ends_E, gate_up_E2FD, down_EDF)
    back_PD: Tensor = _Collect.apply(results_PD, order.pair_P, order.inverse_P)  # type: ignore[no-untyped-call]
    return _weighed(back_PD.view(*chosen_MA.shape, -1), weights_MA)


def grouped_products(rows_PD: Tensor, ends_E: Tensor, gate_up_E2FD: Tensor, down_EDF: Tensor) -> Tensor:
    """Return the experts' results on sorted rows by two grouped products; all tensors in one type."""
    gate_up_PG = F.grouped_mm(rows_PD, gate_up_E2FD.transpose(1, 2), offs=ends_E)
    if serves(rows_PD):
        return gated_down(gate_up_PG, down_EDF, ends_E)
    hidden_PF = _gated(gate_up_PG)
    return F.grouped_mm(hidden_PF, down_EDF.transpose(1, 2), offs=ends_E)


@torch.compiler.disable  # type: ignore[untyped-decorator] # group sizes would be compiled in, for each step anew
def split_products(rows_PD: Tensor, ends_E: Tensor, gate_up_E2FD: Tensor, down_EDF: Tensor) -> Tensor:
    """Return the experts' results on sorted rows, one expert after the other."""
    ends = ends_E.tolist()
    pieces = rows_PD.split([end - start for start, end in zip([0, *ends], ends, strict=False)])
    # unbind, not [expert]: the gradient of an index would be as large as all experts, for each of them
    experts = zip(pieces, gate_up_E2FD.unbind(), down_EDF.unbind(), strict=True)
    return torch.cat([_expert(piece, gate_up, down) for piece, gate_up, down in experts if len(piece)])


def one_token(x_1D: Tensor, chosen_1A: Tensor, weights_1A: Tensor, gate_up_E2FD: Tensor, down_EDF: Tensor) -> Tensor:
    """Return the weighed sum of one token's experts, 1D, without sorting; the host reads which they are."""
    results = [_expert(x_1D, gate_up_E2FD[expert], down_EDF[expert]) for expert in chosen_1A[0].tolist()]
    return _weighed(torch.stack(results, 1), weights_1A)


def gathered(x_MD: Tensor, chosen_MA: Tensor, weights_MA: Tensor, gate_up_E2FD: Tensor, down_EDF: Tensor) -> Tensor:
    """Return the weighed sum of each token's experts, MD, from copies of the pairs' weights."""
    pairs_P = chosen_MA.flatten()
    x_PD1 = x_MD[:, None].expand(*chosen_MA.shape, -1).reshape(len(pairs_P), -1, 1)
    hidden_PF = _gated(torch.bmm(gate_up_E2FD.index_select(0, pairs_P), x_PD1)[..., 0])
    out_PD = torch.bmm(down_EDF.index_select(0, pairs_P), hidden_PF[..., None])[..., 0]
    return _weighed(out_PD.view(*chosen_MA.shape, -1), weights_MA)


def masked(x_MD: Tensor, weights_ME: Tensor, gate_up_E2FD: Tensor, down_EDF: Tensor) -> Tensor:
    """Return the weighed sum of all experts, MD: the reference."""
    results = [
        _expert(x_MD, gate_up, down) * weights_ME[:, number, None].to(x_MD.dtype)
        for number, (gate_up, down) in enumerate(zip(gate_up_E2FD.unbind(), down_EDF.unbind(), strict=True))
    ]
    return torch.stack(results).sum(0)


def scattered(chosen_MA: Tensor, weights_MA: Tensor, num_experts: int) -> Tensor:
    """Return the weights as `masked` takes them, ME."""
    empty_ME = torch.zeros(len(chosen_MA), num_experts, dtype=weights_MA.dtype, device=weights_MA.device)
    return empty_ME.scatter(1, chosen_MA, weights_MA)


def grouped_fits(device: torch.device, dtype: torch.dtype, width: int, inner: int, num_experts: int) -> bool:
    """Whether torch's grouped product is one kernel here, for rows of these widths."""
    row = _ROW_BYTES // dtype.itemsize
    fits = dtype == torch.bfloat16 and width % row == inner % row == 0 and num_experts < _MOST_GROUPS
    return fits and _HAS_GROUPED and device.type == "cuda" and _is_grouped_card(device.index or 0)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _is_grouped_card(index: int) -> bool:
    return torch.cuda.get_device_capability(index)[0] in _GROUPED_MAJORS


def _gated(gate_up_P2F: Tensor) -> Tensor:
    gate_PF, up_PF = gate_up_P2F.chunk(2, -1)
    return F.silu(gate_PF) * up_PF


def _expert(x_MD: Tensor, gate_up_2FD: Tensor, down_DF: Tensor) -> Tensor:
    return F.linear(_gated(F.linear(x_MD, gate_up_2FD)), down_DF)


def _weighed(results_MAD: Tensor, weights_MA: Tensor) -> Tensor:
    return (results_MAD * weights_MA[..., None].to(results_MAD.dtype)).sum(1)


class _Dispatch(torch.autograd.Function):
    """Rows of tokens in the order of the pairs. The gradient is a sum over a token's pairs, in a fixed order."""

    @staticmethod
    def forward(ctx: Any, x_MD: Tensor, token_P: Tensor, inverse_P: Tensor) -> Tensor:
        """Return the row of each sorted place's token, PD."""
        ctx.save_for_backward(inverse_P)
        ctx.num_tokens = len(x_MD)
        return x_MD.index_select(0, token_P)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_PD: Tensor) -> tuple[Tensor, None, None]:
        """Return the gradient of the tokens, MD."""
        (inverse_P,) = ctx.saved_tensors
        back_PD = grad_PD.index_select(0, inverse_P)
        return back_PD.view(ctx.num_tokens, -1, back_PD.shape[-1]).sum(1), None, None


class _Collect(torch.autograd.Function):
    """Sorted rows back in the order of the pairs; the gradient is the same permutation the other way."""

    @staticmethod
    def forward(ctx: Any, results_PD: Tensor, pair_P: Tensor, inverse_P: Tensor) -> Tensor:
        """Return the row of each pair, PD."""
        ctx.save_for_backward(pair_P)
        return results_PD.index_select(0, inverse_P)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_PD: Tensor) -> tuple[Tensor, None, None]:
        """Return the gradient of the sorted rows, PD."""
        (pair_P,) = ctx.saved_tensors
        return grad_PD.index_select(0, pair_P), None, None
