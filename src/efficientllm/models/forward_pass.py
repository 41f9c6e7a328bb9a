"""A forward pass in training as those see it who count what it keeps in memory for the backward pass.

Each part says, next to its code, what it keeps (`Part.saved_bytes`) and the most that its backward pass holds besides
(`Part.working_bytes`). All of it follows from shapes and from what is fixed here; nothing runs.

Two implementations keep different things. Eager, autograd keeps what each operation's derivative asks for. A compiled
layer computes pointwise chains again and keeps what goes into and comes out of products and attention, in their type.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from efficientllm.models.linear import Linear, StackedLinear
from efficientllm.models.part import Chooser

#: Bytes of a float32, in which statistics, router and recurrences are computed whatever the products' type is.
FLOAT = 4


@dataclass(frozen=True, kw_only=True)
class ForwardPass:
    """One pass over `rows` of `tokens` tokens.

    Attributes:
        dtype_bytes: of a number in products: autocast's type where it is on, else the weights'.
        weight_bytes: of a stored weight.
        residual_bytes: of a number of the residual stream, which begins as a row of the embedding.
        compiled: whether layers are compiled.
        recomputes: whether the mlp's wide layers are computed again (`Part.recomputes`).
        accelerator: whether it runs on CUDA.
        kernels: whether Triton's kernels are used there.
        rotates, biases_scores: what the position encoding does in attention.
        turns_part: whether it turns a part of each head, and so copies heads into an order of their own.
        packed: whether rows hold several sequences that do not see each other.
    """

    rows: int
    tokens: int
    dtype_bytes: int = 4
    weight_bytes: int = 4
    residual_bytes: int = 4
    compiled: bool = False
    recomputes: bool = False
    accelerator: bool = False
    kernels: bool = False
    rotates: bool = False
    biases_scores: bool = False
    turns_part: bool = False
    packed: bool = False

    @property
    def num_tokens(self) -> int:
        """Tokens of all rows."""
        return self.rows * self.tokens

    @property
    def autocast(self) -> bool:
        """Whether products take another type than the weights are stored in."""
        return self.dtype_bytes != self.weight_bytes

    def numbers(self, per_token: float) -> float:
        """Return the bytes of so many numbers a token, in the products' type."""
        return per_token * self.num_tokens * self.dtype_bytes

    def floats(self, per_token: float) -> float:
        """Return the bytes of so many float32 numbers a token."""
        return per_token * self.num_tokens * FLOAT

    def residuals(self, width: int) -> float:
        """Return the bytes of the residual stream at one place."""
        return float(width * self.num_tokens * self.residual_bytes)

    def norm_inputs(self, per_token: float, given_bytes: int, *, gradients: int = 2) -> float:
        """Return what an eager RMSNorm inside a mixer keeps of so many numbers a token that come in this size.

        The fused kernel keeps what comes in. Torch's chain of operations on a processor, where it is not ours (numbers
        that are not float32), keeps a float32 copy for each gradient that is wanted: of what came in, of the gain.
        """
        if self.accelerator or given_bytes == FLOAT:
            return per_token * self.num_tokens * given_bytes
        return self.floats(gradients * per_token)


def copied_bytes(module: nn.Module, ahead: ForwardPass, *, stacked: bool = True) -> float:
    """Return the bytes of a module's weights once more in the products' type, as autocast makes them for products.

    Dense layers are copied, and where `stacked` says so the experts'; gains and tables of their own are not, nor is a
    router, which computes in float32.
    """
    if not ahead.autocast:
        return 0.0
    layers = _dense(module, (Linear, StackedLinear) if stacked else (Linear,))
    return float(ahead.dtype_bytes * sum(p.numel() for layer in layers for p in layer.parameters(recurse=False)))


def _dense(module: nn.Module, kinds: tuple[type[nn.Module], ...]) -> list[nn.Module]:
    if isinstance(module, Chooser):
        return []
    if isinstance(module, kinds):
        return [module]
    return [layer for child in module.children() for layer in _dense(child, kinds)]
