"""What recurrent mixers share: a state of constant size, and the way of a forward pass.

    x ─ project ─ inputs (of this token, and of those just before it) ─ recurrence over a matrix a head ─ outputs

The recurrence exists three times: `recurrence` writes every step out, `chunks` is the same over many tokens at once,
`one_token` is one step in place. Letters as in `_contract.py`; a head's keys are H wide, its values W.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from efficientllm.errors import Unsupported, UserError
from efficientllm.models.linear import Linear
from efficientllm.models.mixers import _kernels
from efficientllm.models.mixers._chunked import CHUNK_TOKENS
from efficientllm.models.mixers._contract import State
from efficientllm.models.mixers._recurrent_costs import RecurrentCosts
from efficientllm.models.mixers._runs import Runs, in_one_row, last_tokens
from efficientllm.models.position._contract import Position, Positions
from efficientllm.models.shape import Shape

#: Bytes of a number of the matrix state: float32 whatever the weights are, for it sums over all tokens.
_MEMORY_BYTES = 4

#: Rows of a matrix that products on devices like: 16 bytes of bfloat16.
_MULTIPLE = 8

Tensors = tuple[Tensor, ...]

#: What tokens read, and the state after them (None where a kernel was not asked for it).
Mixed = tuple[Tensor, Tensor | None]

#: A kernel.
Call = Callable[..., Any]


class RecurrentState(State):
    """What a recurrent mixer remembers: as much for a long text as for a short one.

    A recurrence cannot be run backwards, so the state goes back only to where it was marked, or to its beginning. Each
    mark holds a copy of the state until the state goes back beyond it; copies are not part of `state_bytes`.

    Attributes:
        recent: the last inputs, B, tokens, X, in the model's type; zeros stand for those before the first.
        memory: the matrices of all heads, float32, B first.
    """

    def __init__(
        self, recent: tuple[int, ...], memory: tuple[int, ...], batch: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        super().__init__(fixed_shapes=device.type == "cuda")
        self.recent = torch.zeros((batch, *recent), dtype=dtype, device=device)
        self.memory = torch.zeros((batch, *memory), dtype=torch.float32, device=device)
        self._marks: dict[int, Tensors] = {}

    def tensors(self) -> Tensors:
        """Return both tensors."""
        return self.recent, self.memory

    def mark(self) -> None:
        """Remember this point."""
        self._marks[self.length] = tuple(part.clone() for part in self.tensors())

    def rewind(self, length: int) -> None:
        """Go back to a marked length, or to 0; marks beyond it are given up."""
        if length not in (0, *self._marks):
            points = ", ".join(str(point) for point in sorted({0, *self._marks}))
            raise AssertionError(f"a recurrent state goes back to {points} tokens, not to {length}. Call mark() there")
        super().rewind(length)
        kept = self._marks.get(length)
        for number, part in enumerate(self.tensors()):
            part.zero_() if kept is None else part.copy_(kept[number])
        self._marks = {point: kept for point, kept in self._marks.items() if point <= length}

    def state_bytes(self) -> int:
        """Return the bytes of both tensors for a sequence."""
        return sum(part.nbytes for part in self.tensors()) // self.memory.shape[0]


class RecurrentMixer(RecurrentCosts):
    """A mixer that remembers a matrix for each head, and the last few inputs.

    Of its floating-point operations the products are counted, as everywhere here; decays, gates and norms are
    elementwise and left out.

    Attributes:
        recent_shape: tokens and channels of the inputs that are remembered.
        memory_shape: shape of the matrices of a sequence.
        token_flops: operations for one token.
        kernel: the function of flash-linear-attention that does what `chunks` does.
    """

    uncoded = "its memory is no cache: each token rewrites it as a whole, and errors of rounding would add up"

    recent_shape: tuple[int, int]
    memory_shape: tuple[int, int, int]
    token_flops: float
    kernel: _kernels.Kernel

    def project(self, x_BTD: Tensor) -> Tensors:
        """Return what is made of each token alone; the first of it is what the next tokens are to remember."""
        raise NotImplementedError

    def inputs(
        self, parts: Tensors, before: Tensor | None, runs: Runs | None, *, plain: bool
    ) -> tuple[Tensors, Tensors]:
        """Return what the recurrence takes of each token, and what `outputs` needs besides.

        Args:
            parts: what `project` returned.
            before: the inputs before the first token, if there are any.
            runs: packed rows.
            plain: whether to use the plainest form.
        """
        raise NotImplementedError

    def recurrence(self, taken: Tensors, keep_BT: Tensor) -> Tensor:
        """Return what the tokens read, BTNW, float32, step by step; where `keep_BT` is 0 the state begins anew."""
        raise NotImplementedError

    def chunks(self, taken: Tensors, memory: Tensor | None, runs_BT: Tensor | None) -> Mixed:
        """Return the same by products over many tokens, from this state on; runs as in `_runs.py`."""
        raise NotImplementedError

    def chunks_computed_twice(self, taken: Tensors, memory: Tensor | None, runs_BT: Tensor | None) -> Mixed:
        """Return the same and keep only what came in for the backward pass, as fla's kernels do.

        Chunks make some L numbers a head and token of it, which on a device would leave no room for the model.
        """
        mixed: Mixed = checkpoint(
            lambda *given: self.chunks(given, memory, runs_BT), *taken, use_reentrant=False, preserve_rng_state=False
        )
        return mixed

    def fused(self, call: Call, taken: Tensors, memory: Tensor | None, ends: Tensor | None) -> Mixed:
        """Return the same by `kernel`; `ends` are the bounds of packed sequences, which then lie in one row."""
        raise NotImplementedError

    def one_token(self, taken: Tensors, memory: Tensor) -> Tensor:
        """Take one step, in place, and return what the token reads, BNW, float32."""
        raise NotImplementedError

    def outputs(self, mixed_BTNW: Tensor, rest: Tensors) -> Tensor:
        """Return BTD from what the tokens read."""
        raise NotImplementedError

    def forward(
        self, x_BTD: Tensor, positions: Positions, state: State | None = None, sequence_ids_BT: Tensor | None = None
    ) -> Tensor:
        """Return the mixed tokens; see the contract."""
        runs = Runs.of(sequence_ids_BT, positions)
        parts = self.project(x_BTD)
        if state is None:
            taken, rest = self.inputs(parts, None, runs, plain=False)
            return self.outputs(self._many(taken, None, runs)[0], rest)
        assert isinstance(state, RecurrentState) and runs is None
        taken, rest = self.inputs(parts, state.recent, None, plain=False)
        state.recent.copy_(last_tokens(state.recent, parts[0]).detach())
        if x_BTD.shape[1] == 1:
            with _full_precision(x_BTD):
                mixed_BTNW = self.one_token(tuple(x[:, 0].detach().float() for x in taken), state.memory)[:, None]
        else:
            mixed_BTNW, memory = self._many(taken, state.memory, None)
            assert memory is not None
            state.memory.copy_(memory.detach())
        return self.outputs(mixed_BTNW, rest)

    def reference(self, x_BTD: Tensor, positions: Positions, sequence_ids_BT: Tensor | None = None) -> Tensor:
        """Return the same step by step."""
        runs = Runs.of(sequence_ids_BT, positions)
        taken, rest = self.inputs(self.project(x_BTD), None, runs, plain=True)
        keep_BT = x_BTD.new_ones(x_BTD.shape[:2]) if runs is None else runs.together(1).expand(x_BTD.shape[0], -1)
        with _full_precision(x_BTD):
            mixed_BTNW = self.recurrence(tuple(x.float() for x in taken), keep_BT.float())
        return self.outputs(mixed_BTNW, rest)

    def implementation(self, dtype: torch.dtype, *, gradients: bool) -> str:
        """Return what computes many tokens at once in numbers of this type."""
        device = next(self.parameters()).device
        if self.kernel.find(device, dtype, gradients=gradients) is not None:
            return f"flash-linear-attention {_kernels.version()}: {self.kernel.name}"
        return f"torch, in chunks of {CHUNK_TOKENS} tokens"

    def allocate(self, batch: int, max_tokens: int, dtype: torch.dtype, device: torch.device) -> State:
        """Return an empty state; the number of tokens makes no difference."""
        return RecurrentState(self.recent_shape, self.memory_shape, batch, dtype, device)

    def model_flops(self, new_tokens: int, context: int = 0) -> float:
        """Return the operations of the recurrent form, the same for every token."""
        return new_tokens * self.token_flops

    def reference_flops(self, num_tokens: int) -> float:
        """Return the same: the reference is the recurrent form."""
        return num_tokens * self.token_flops

    def state_bytes(self, dtype_bytes: int) -> int:
        """Return the bytes of the last inputs, and of the matrices in float32."""
        (tokens, channels), (a, b, c) = self.recent_shape, self.memory_shape
        return tokens * channels * dtype_bytes + a * b * c * _MEMORY_BYTES

    def _many(self, taken: Tensors, memory: Tensor | None, runs: Runs | None) -> Mixed:
        """Mix many tokens: what is float32 among `taken` stays so, also under autocast."""
        first = taken[0]
        call = self.kernel.find(first.device, first.dtype, gradients=torch.is_grad_enabled())
        with _full_precision(first):
            if call is None:
                numbers_BT = None if runs is None else runs.numbers_BT
                if first.device.type == "cuda" and torch.is_grad_enabled():
                    return self.chunks_computed_twice(taken, memory, numbers_BT)
                return self.chunks(taken, memory, numbers_BT)
            if runs is None:
                return self.fused(call, taken, memory, None)
            mixed, last = self.fused(call, tuple(in_one_row(x) for x in taken), memory, runs.bounds(first.shape[0]))
            return mixed.unflatten(1, first.shape[:2])[0], last


def _full_precision(x: Tensor) -> torch.autocast:
    """Return a region in which autocast leaves numbers as they are."""
    return torch.autocast(x.device.type, enabled=False)


def in_parts(layer: Linear, x_BTD: Tensor, parts: tuple[int, ...]) -> Tensors:
    """Return a layer's result, split.

    Devices multiply matrices of any number of rows that is no multiple of 16 bytes two to three times slower: in
    training on CUDA zeros fill them up.
    """
    missing = -sum(parts) % _MULTIPLE
    if not missing or x_BTD.device.type != "cuda" or not torch.is_grad_enabled():
        whole: Tensor = layer(x_BTD)
        pieces: Tensors = whole.split(parts, -1)
        return pieces
    filled = F.linear(x_BTD, F.pad(layer.weight, (0, 0, 0, missing)))
    all_pieces: Tensors = filled.split((*parts, missing), -1)
    return all_pieces[:-1]


def refuse(name: str, shape: Shape, position: Position) -> None:
    """Refuse what only attention can have.

    Raises:
        Unsupported: a window, norms of queries and keys, or a position encoding that needs either of them.
    """
    if position.rotates:
        raise Unsupported(f"{name} has no queries and keys that a rotary position could turn: choose position none")
    if position.biases_scores:
        raise Unsupported(f"{name} has no scores that this position encoding could bias: choose position none")
    if shape.sliding_window:
        raise Unsupported(f"{name} remembers all tokens in one state: shape.sliding_window has no place in it")
    if shape.qk_norm:
        raise Unsupported(f"{name} has no attention heads to normalise: shape.qk_norm has no place in it")


def count(mixer: str, name: str, value: int | None, default: int, least: int = 1) -> int:
    """Return the value of an option that is a count, or its default.

    Raises:
        UserError: not a whole number from `least` to 65536.
    """
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= 65536:
        raise UserError(f"option {name} of mixer {mixer} is {value!r}. Give a whole number from {least} to 65536.")
    return value
