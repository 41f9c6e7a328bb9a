"""A dense layer of a decoder as adapters see it: several named layers that share one matrix.

    decoder's `qkv` ── AdaptedLinear ── base: the frozen matrix, rows of q, k and v one after another
                                     └─ parts: q_proj, k_proj, v_proj, each a `Rows` of it, or what peft made of one

A step may so go on taking one product for all of them, while each has an adapter of its own under the name that it has
in its family's checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from efficientllm.adapters._delta import Deltas
from efficientllm.adapters._low_rank import LowRank
from efficientllm.models.forward_pass import ForwardPass
from efficientllm.models.linear import Factors, Linear
from efficientllm.precision._contract import PackedLinear
from efficientllm.precision._low_rank_product import end_room
from efficientllm.precision.pack import unpack


class Rows(nn.Linear):
    """Some rows of another layer's matrix, as a layer: it holds nothing of its own.

    `materialise` makes it an ordinary layer for as long as a library reads and replaces its weight; `lend` ends that.
    """

    def __init__(self, owner: AdaptedLinear, start: int, rows: int) -> None:
        nn.Module.__init__(self)  # a linear layer's own would allocate the matrix
        self.in_features, self.out_features = owner.in_features, rows
        self._owner, self._slice = (owner,), slice(start, start + rows)  # in a tuple it is no child

    def forward(self, x: Tensor) -> Tensor:
        """Return the rows' result; of a packed matrix without keeping it in full for the backward pass."""
        base = self._owner[0].base
        return base.product(x, self._slice) if isinstance(base, PackedLinear) else super().forward(x)

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The rows as they are now."""
        return self._owner[0].base.weight[self._slice]

    @property
    def bias(self) -> Tensor | None:  # type: ignore[override]
        """Their part of the bias."""
        bias = self._owner[0].base.bias
        return None if bias is None else bias[self._slice]


class _Whole(nn.Linear):
    """Rows while they are materialised."""


class AdaptedLinear(nn.Module):
    """A frozen dense layer with adapters.

    Attributes:
        base: the layer, in full or in low precision.
        parts: of each range of rows, in order: the layer that peft wrapped, or `Rows` where it did not.
        fast: the fast form of all parts together, where there is one.
    """

    def __init__(self, base: nn.Linear, owner: nn.Module | None = None, attribute: str = "") -> None:
        super().__init__()
        self.base = base
        self._place = (owner, attribute)  # in a tuple it is no child
        self.in_features, self.out_features = base.in_features, base.out_features
        self.parts: nn.ModuleList = nn.ModuleList()
        self.fast: LowRank | Deltas | None = None
        self._rows: list[Rows] = []

    def split(self, rows: Sequence[int]) -> list[Rows]:
        """Return this layer's rows as layers."""
        starts = [sum(rows[:number]) for number in range(len(rows))]
        self._rows = [Rows(self, start, count) for start, count in zip(starts, rows, strict=True)]
        return self._rows

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's result, adapters included."""
        if self.fast is not None:
            return self.fast(x, self.base)
        found: list[Tensor] = [part(x) for part in self.parts]
        return found[0] if len(found) == 1 else torch.cat([y.to(x.dtype) for y in found], -1)

    def factors(self) -> Factors | None:
        """Return the layer as factors, None where its forward pass must do."""
        return None if self.fast is None else self.fast.factors(self.base)

    @property
    def adapted(self) -> bool:
        """Whether any of its rows have an adapter."""
        return not all(isinstance(part, Rows) for part in self.parts)

    def input_width(self) -> int:
        """Return how many numbers a token are kept of what goes in: all, where a correction is a product with it."""
        return self.in_features if self.fast is not None else 0

    def has_factors(self) -> bool:
        """Whether `factors` gives some."""
        return isinstance(self.fast, LowRank) and self.fast.has_factors(self.base)

    def added_bytes(self, ahead: ForwardPass) -> float:
        """Return what the adapters keep for the backward pass, beside what goes in; of peft's own forms nothing."""
        return 0.0 if self.fast is None else self.fast.added_bytes(self.base, ahead)

    def result_bytes(self, ahead: ForwardPass) -> float:
        """Return what is kept of what the layer gives, where who reads it would not keep it."""
        reads = not getattr(self.base, "writes_residual", False)
        keeps = self.fast is not None and self.fast.keeps_result
        return ahead.numbers(self.out_features) if keeps and not reads else 0.0

    def made_bytes(self, ahead: ForwardPass) -> float:
        """Return what the backward pass makes for this layer alone: a packed matrix anew, and what adapters need.

        The part counts gradients that are not there at the same time, of what goes into or comes out of this layer.
        """
        matrix = self.in_features * self.out_features * ahead.dtype_bytes
        made = float(matrix) if isinstance(self.base, PackedLinear) else 0.0
        made += 0.0 if self.fast is None else self.fast.made_bytes(self.base, ahead)
        return max(0.0, made - ahead.numbers(max(self.in_features, self.out_features)))

    def uncounted(self, compiled: bool) -> str:
        """Return what of the layer is not counted in the bytes above; empty if all is."""
        if self.fast is not None or not self.adapted:
            return "" if self.fast is None else self.fast.uncounted(compiled)
        kinds = {type(part).__module__.split(".")[-2] for part in self.parts if not isinstance(part, Rows)}
        return f"what {' and '.join(sorted(kinds))} keeps in peft's own forward pass"

    @property
    def weight(self) -> Tensor:
        """The matrix that this layer amounts to: its result for each unit vector. For who needs it whole; it costs."""
        unit = torch.eye(self.in_features, dtype=self.base.weight.dtype, device=self.base.weight.device)
        product: Tensor = self(unit)
        return (product if self.bias is None else product - self.bias).t()

    @property
    def bias(self) -> Tensor | None:
        """The layer's bias; adapters have none."""
        return self.base.bias

    def flops_per_token(self) -> float:
        """Return the floating-point operations of one token without adapters: two for each weight."""
        return 2.0 * self.in_features * self.out_features

    def unpack(self) -> None:
        """Hold the matrix in full, if it is packed: what is added to it needs the room."""
        packed = self.base
        if isinstance(packed, PackedLinear):
            read, residual = unpack(packed), bool(getattr(packed, "writes_residual", False))
            with torch.device("meta"):
                self.base = Linear(self.in_features, self.out_features, writes_residual=residual)
            self.base.weight, self.base.bias = read.weight, read.bias

    def make_room(self) -> None:
        """Let the base lie where factors have room beside it, if its fast form gains by that."""
        if isinstance(self.fast, LowRank):
            self.fast.make_room(self.base)

    def room_bytes(self) -> float:
        """Return the bytes of that room."""
        return self.fast.room_bytes(self.base) if isinstance(self.fast, LowRank) else 0.0

    def leave(self) -> None:
        """Put the base back into the place that this layer has taken, as it was."""
        if not isinstance(self.base, PackedLinear):
            end_room(self.base.weight)
        owner, attribute = self._place
        if owner is not None:
            setattr(owner, attribute, self.base)

    def adapter_flops_per_token(self) -> float:
        """Return what the adapters add to a token's forward pass: two operations for each weight of a matrix."""
        return 2.0 * sum(p.numel() for p in self.parts.parameters() if p.requires_grad and p.ndim == 2)

    def materialise(self) -> None:
        """Let rows be ordinary layers, views of the matrix, whose weight a library may read and replace."""
        weight, bias = self.base.weight.detach(), self.base.bias
        for rows in self._rows:
            rows.__class__ = _Whole  # type: ignore[assignment] # for as long as it has a weight of its own
            rows._parameters["weight"] = nn.Parameter(weight[rows._slice], requires_grad=False)
            own = None if bias is None else nn.Parameter(bias.detach()[rows._slice], requires_grad=False)
            rows._parameters["bias"] = own

    @torch.no_grad()
    def lend(self) -> None:
        """Take back what a library made of the rows, and let them be views again."""
        for rows in self._rows:
            _take_back(self.base.weight[rows._slice], rows._parameters["weight"])
            if self.base.bias is not None:
                _take_back(self.base.bias[rows._slice], rows._parameters["bias"])
            del rows._parameters["weight"], rows._parameters["bias"]
            rows.__class__ = Rows


def _take_back(target: Tensor, made: Tensor | None) -> None:
    assert made is not None
    if made.data_ptr() != target.data_ptr():  # it was replaced, not changed in place
        target.copy_(made)
