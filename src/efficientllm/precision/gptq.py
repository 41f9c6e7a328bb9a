"""Four-bit whole numbers rounded one input after the other, each making up for the errors of those before (GPTQ)."""

from __future__ import annotations

import torch
from torch import Tensor

from efficientllm.errors import UserError
from efficientllm.precision._affine import nearest, pack_nearest, values_of
from efficientllm.precision._blocks import join_codes
from efficientllm.precision._contract import PackedLinear, PrecisionEntry
from efficientllm.records.card import Card

#: Inputs whose errors are passed on among themselves at once, and to all later ones in one product.
_TOGETHER = 128


def pack(
    weight: Tensor,
    bias: Tensor | None,
    group: int = 128,
    damping: float = 0.01,
    act_order: bool = True,
    *,
    moments_II: Tensor,
) -> PackedLinear:
    """Return the layer of a matrix, in the form of int4 with the same steps and zeros: only codes are other ones.

    Args:
        weight: `[out_features, in_features]`.
        bias: the layer's bias.
        group: as of int4.
        damping: what is added to the diagonal of the moments, as a share of its mean.
        act_order: whether inputs are rounded from the strongest to the weakest, else as they come.
        moments_II: mean of x xᵀ over the layer's inputs on calibration text.

    Raises:
        UserError: an option out of its range, numbers that are not finite, or moments that cannot be inverted.
    """
    if not 0 <= damping <= 1:
        raise UserError(f"gptq: damping {damping}: choose a share from 0 to 1.")
    if moments_II.shape != (weight.shape[1], weight.shape[1]):
        raise UserError(f"gptq: moments of shape {tuple(moments_II.shape)} for {weight.shape[1]} inputs.")
    layer = pack_nearest(weight, bias, group, "gptq: group")
    if not weight.is_meta:
        held = layer.packed()
        assert held.lows is not None
        work = torch.promote_types(weight.dtype, torch.float32)
        moments_II = moments_II.to(weight.device, work)
        found_OI = compensated(
            weight.detach().to(work), moments_II, held.scales.to(work), held.lows.to(work), group, damping, act_order
        )
        filled = found_OI.new_zeros(held.scales.numel() * group)
        filled[: found_OI.numel()] = found_OI.flatten()
        held.codes.copy_(join_codes(filled))
    return layer


def compensated(
    weight_OI: Tensor,
    moments_II: Tensor,
    steps_K: Tensor,
    zeros_K: Tensor,
    group: int,
    damping: float,
    act_order: bool,
) -> Tensor:
    """Return the codes OI, uint8, that make up for each other's errors as arXiv:2210.17323 does it.

    With H the damped moments and H⁻¹ = UᵀU, U upper triangular: once input i is rounded with error e, each later input
    j is changed by -e U_ij / U_ii, the change that keeps the layer's squared error on the calibration text least.

    Args:
        weight_OI: the matrix, in float32 or float64, as all that follow.
        moments_II: mean of x xᵀ.
        steps_K: of the groups, which are cut from the matrix row after row.
        zeros_K: of the groups.
        group: numbers in one.
        damping: see `pack`.
        act_order: see `pack`.
    """
    num_out, num_in = weight_OI.shape
    strengths_I = moments_II.diagonal()
    order_I = torch.arange(num_in, device=weight_OI.device)
    if act_order:
        order_I = strengths_I.argsort(descending=True, stable=True)
    factor_II = _factor(moments_II[order_I][:, order_I], damping)
    left_IO = weight_OI.t()[order_I].contiguous()  # inputs are rows: one is then a run of memory
    codes_IO = torch.empty(num_in, num_out, dtype=torch.uint8, device=weight_OI.device)
    firsts_O = torch.arange(num_out, device=weight_OI.device) * num_in
    for start in range(0, num_in, _TOGETHER):
        stop = min(start + _TOGETHER, num_in)
        groups_JO = (firsts_O + order_I[start:stop, None]) // group
        some_JO, factor_JJ = left_IO[start:stop], factor_II[start:stop, start:stop]
        errors_JO, codes_IO[start:stop] = _few(some_JO, factor_JJ, steps_K[groups_JO], zeros_K[groups_JO])
        left_IO[stop:].addmm_(factor_II[start:stop, stop:].t(), errors_JO, alpha=-1)
    codes_OI = torch.empty(num_out, num_in, dtype=torch.uint8, device=weight_OI.device)
    codes_OI[:, order_I] = codes_IO.t()
    return codes_OI


def _few(left_JO: Tensor, factor_JJ: Tensor, steps_JO: Tensor, zeros_JO: Tensor) -> tuple[Tensor, Tensor]:
    """Round a few inputs one after the other; return their errors, each over its factor's diagonal, and their codes."""
    errors_JO, codes_JO = torch.empty_like(left_JO), torch.empty_like(left_JO)
    for j in range(len(left_JO)):
        steps_O, zeros_O = steps_JO[j], zeros_JO[j]
        codes_JO[j] = nearest(left_JO[j], steps_O, zeros_O)
        errors_JO[j] = (left_JO[j] - values_of(codes_JO[j], steps_O, zeros_O)) / factor_JJ[j, j]
        left_JO[j + 1 :].addr_(factor_JJ[j, j + 1 :], errors_JO[j], alpha=-1)
    return errors_JO, codes_JO.to(torch.uint8)


def _factor(moments_II: Tensor, damping: float) -> Tensor:
    """Return U, upper triangular, with UᵀU the inverse of the damped moments.

    Read from its last row and column on, H has the factor L of Cholesky; turned back, that is upper triangular with
    H = R Rᵀ, so U is R⁻¹, and H itself is never inverted.
    """
    identity_II = torch.eye(len(moments_II), dtype=moments_II.dtype, device=moments_II.device)
    mean = moments_II.diagonal().mean()
    if mean == 0:  # no input was ever anything: all errors are alike
        return identity_II
    damped_II = moments_II / mean
    damped_II.diagonal().add_(damping)
    lower_II, failed = torch.linalg.cholesky_ex(damped_II.flip(0, 1))
    if failed or not lower_II.isfinite().all():
        finer_II, failed = torch.linalg.cholesky_ex(damped_II.double().flip(0, 1))
        lower_II = finer_II.to(moments_II.dtype)
    if failed or not lower_II.isfinite().all():
        many = len(moments_II)
        raise UserError(
            f"gptq: the moments of {many} inputs have no inverse with damping {damping}. Raise damping, or give more "
            "calibration_tokens; if that does not help, the inputs are not finite."
        )
    factor_II: Tensor = torch.linalg.solve_triangular(lower_II.flip(0, 1), identity_II, upper=True)
    return factor_II


ENTRY = PrecisionEntry(
    card=Card(
        title="4-bit integers in groups, rounded with error compensation (GPTQ)",
        source="arXiv:2210.17323",
        improves=("memory", "compression", "quality"),
        costs=("latency",),
        note="quality against int4, all else against 16-bit weights; needs calibration text of the training split",
    ),
    pack=pack,
    bits=4 + 2 * 16 / 128,
    needs_inputs=True,
)
