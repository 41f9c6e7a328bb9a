"""The plain layer of older decoders: two matrices with a GELU between them."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from efficientllm.models.adapted import input_width
from efficientllm.models.forward_pass import ForwardPass
from efficientllm.models.linear import Linear
from efficientllm.models.mlp._contract import Mlp, MlpEntry
from efficientllm.models.shape import Shape
from efficientllm.records.card import Card


class GeluMlp(Mlp):
    """down(gelu(up(x))), with biases where `shape.mlp_bias` says so."""

    counts_frozen = True

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.up = Linear(shape.width, shape.mlp_width, bias=shape.mlp_bias)
        self.down = Linear(shape.mlp_width, shape.width, bias=shape.mlp_bias, writes_residual=True)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Return what is added to the residual stream, BTD."""
        return self.run_wide(self._layers, x_BTD)

    def model_flops(self, num_tokens: int) -> float:
        """Return two operations for each weight and token."""
        return num_tokens * (self.up.flops_per_token() + self.down.flops_per_token())

    def saved_bytes(self, ahead: ForwardPass) -> float:
        """Return what went in, and what goes into and comes out of the GELU."""
        if ahead.recomputes:
            return 0.0 if ahead.compiled else ahead.residuals(self.shape.width)
        return ahead.numbers(input_width(self.up) + self.shape.mlp_width + input_width(self.down))

    def working_bytes(self, ahead: ForwardPass) -> float:
        """Return the gradients on both sides of the GELU, and what is computed again."""
        working = self.shape.width + 2 * self.shape.mlp_width
        return ahead.numbers(2 * working if ahead.recomputes else working)

    def _layers(self, x_BTD: Tensor) -> Tensor:
        out_BTD: Tensor = self.down(F.gelu(self.up(x_BTD)))
        return out_BTD


ENTRY = MlpEntry(
    card=Card(
        title="Plain GELU feed-forward layer",
        source="arXiv:1606.08415",
        improves=("latency",),
        costs=("quality",),
        note="against the gated layer; two products in place of three",
    ),
    build=GeluMlp,
)
