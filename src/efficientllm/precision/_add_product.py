"""A product added to a tensor in place, also in a compiled graph.

A compiler makes `addmm_` an `addmm` into another buffer, which first copies what is added to; and torch 2.11 loses the
sum if that happens in the backward pass of an operator of one's own. As an operator that says that it changes its first
argument, it stays where it is.
"""

from __future__ import annotations

import torch
from torch import Tensor


@torch.library.custom_op("efficientllm::add_product", mutates_args={"sum_MO"})
def add_product(sum_MO: Tensor, left_MR: Tensor, right_RO: Tensor) -> None:
    """Add left times right; for use inside of an operator's own forward and backward pass, it has no gradient."""
    sum_MO.addmm_(left_MR, right_RO)


@add_product.register_fake
def _(sum_MO: Tensor, left_MR: Tensor, right_RO: Tensor) -> None:
    return None
