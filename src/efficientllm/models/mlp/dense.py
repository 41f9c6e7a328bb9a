"""The dense gated layer: every token uses all of it."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from efficientllm.models.adapted import has_factors, input_width
from efficientllm.models.forward_pass import ForwardPass
from efficientllm.models.linear import Linear, factors_of
from efficientllm.models.mlp._contract import Mlp, MlpEntry
from efficientllm.models.mlp._gated import gated, gated_down, gated_factors, serves
from efficientllm.models.shape import Shape
from efficientllm.records.card import Card


class GatedMlp(Mlp):
    """down(silu(gate(x)) * up(x)); gate and up are one matrix, in this order, so that a step makes one product."""

    counts_frozen = True

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.gate_up = Linear(shape.width, 2 * shape.mlp_width, bias=shape.mlp_bias)
        self.down = Linear(shape.mlp_width, shape.width, bias=shape.mlp_bias, writes_residual=True)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Return what is added to the residual stream, BTD."""
        return self.run_wide(self._layers, x_BTD)

    def model_flops(self, num_tokens: int) -> float:
        """Return two operations for each weight and token."""
        return num_tokens * (self.gate_up.flops_per_token() + self.down.flops_per_token())

    def saved_bytes(self, ahead: ForwardPass) -> float:
        """Return what went in, gate and up, and but for the kernel their product; eager also silu(gate)."""
        width, inner = self.shape.width, self.shape.mlp_width
        if ahead.recomputes:
            return 0.0 if ahead.compiled else ahead.residuals(width)
        return ahead.numbers(input_width(self.gate_up) + (2 + self._kept_values(ahead)) * inner)

    def working_bytes(self, ahead: ForwardPass) -> float:
        """Return the gradients of the product, of gate and of up, and what is computed again."""
        width, inner = self.shape.width, self.shape.mlp_width
        # The kernel writes the product once more and both gradients while the gradient of the product is there.
        working = width + (4 if self._fused(ahead) else 2) * inner
        if ahead.recomputes:
            working += width + (2 + self._kept_values(ahead)) * inner
        return ahead.numbers(working)

    def checkpoint_names(self) -> dict[str, tuple[tuple[str, int], ...]]:
        """Return the names of Llama, Qwen2, Qwen3 and Mistral."""
        width, inner = self.shape.width, self.shape.mlp_width
        return {
            "gate_up.weight": (("mlp.gate_proj.weight", inner), ("mlp.up_proj.weight", inner)),
            "down.weight": (("mlp.down_proj.weight", width),),
        }

    def _fused(self, ahead: ForwardPass) -> bool:
        return ahead.kernels and not self.shape.mlp_bias

    def _kept_values(self, ahead: ForwardPass) -> int:
        """Return how many further tensors of the inner width are kept: the product, and eager silu(gate)."""
        product = int(input_width(self.down) > 0)
        if self._fused(ahead):
            inside = type(self.down) is Linear or has_factors(self.down)
            return 0 if inside else product
        return product if ahead.compiled else product + 1

    def _layers(self, x_BTD: Tensor) -> Tensor:
        gate_up_BTG = self.gate_up(x_BTD)
        if serves(x_BTD) and not self.shape.mlp_bias:
            return self._fused_down(gate_up_BTG)
        gate_BTF, up_BTF = gate_up_BTG.chunk(2, -1)
        out_BTD: Tensor = self.down(F.silu(gate_BTF) * up_BTF)
        return out_BTD

    def _fused_down(self, gate_up_BTG: Tensor) -> Tensor:
        """Return down(silu(gate) * up) by the kernels; another layer may stand in the place of `down`."""
        if type(self.down) is Linear:
            return gated_down(gate_up_BTG, self.down.weight)
        factors = factors_of(self.down)
        if factors is not None:
            return gated_factors(gate_up_BTG, factors)
        out_BTD: Tensor = self.down(gated(gate_up_BTG))
        return out_BTD


ENTRY = MlpEntry(
    card=Card(title="Dense gated feed-forward layer", source="arXiv:2002.05202", improves=("quality",)),
    build=GatedMlp,
)
