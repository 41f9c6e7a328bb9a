"""The optimiser's step with the gradients scaled to a largest norm."""

from __future__ import annotations

import torch


def clipped_step(optimizer: torch.optim.Optimizer, clip_norm: float) -> None:
    """Scale all gradients together so that their norm is at most `clip_norm` (0: leave them), then step.

    torch's fused optimisers divide by a number on the device while they read the gradients, as they do for scaled
    losses; for others the gradients are scaled first, which reads and writes them once more.
    """
    if clip_norm:
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        scale_gradients(optimizer, parameters, torch.nn.utils.get_total_norm([p.grad for p in parameters]), clip_norm)
    optimizer.step()


def scale_gradients(
    optimizer: torch.optim.Optimizer, parameters: list[torch.Tensor], norm: torch.Tensor, clip_norm: float
) -> None:
    """Scale gradients whose norm, or whose and others' norm, is known: by the optimiser's next step, or now."""
    if _divides(optimizer, parameters):
        optimizer.grad_scale = (norm / clip_norm).clamp(min=1.0)  # type: ignore[attr-defined]
        optimizer.found_inf = torch.zeros_like(norm)  # type: ignore[attr-defined]
    else:
        torch.nn.utils.clip_grads_with_norm_(parameters, clip_norm, norm)


def _divides(optimizer: torch.optim.Optimizer, parameters: list[torch.Tensor]) -> bool:
    """Whether the optimiser takes a divisor: those of torch do in their fused form, for plain float32 tensors."""
    plain = all(type(p.grad) is torch.Tensor and p.dtype == torch.float32 for p in parameters)
    return plain and type(optimizer) in (torch.optim.AdamW, torch.optim.Adam) and bool(optimizer.defaults["fused"])
