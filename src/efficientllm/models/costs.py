"""What a decoder costs, counted from its shapes: parameters, floating-point operations, bytes.

Parameters stored and those that one token uses (active) are counted apart: memory and the optimiser's traffic go by
the stored ones, FLOPs by the active ones, the reads of a decode step by those that its tokens touch.

FLOPs are those that the model needs: two for each weight and token in a product, causal attention over the pairs that
see each other, active parts only, nothing recomputed. Norms, activations and softmax are left out, as is usual.
"""

from __future__ import annotations

import torch

from efficientllm.models.block import Block
from efficientllm.models.decoder import Decoder
from efficientllm.models.linear import num_parameters, stored_bytes
from efficientllm.models.train_flops import train_flops
from efficientllm.records.measurement import ModelFacts
from efficientllm.records.window import Work

#: A backward pass takes two products for each of the forward pass.
_TRAIN_FACTOR = 3.0

#: How often a step of training moves each weight's worth of bytes at least: the weight is read forward, backward and
#: by the optimiser, and written; its gradient is written and read. The optimiser's state is read and written besides.
_TRAIN_PASSES = 6

#: … and those of a frozen weight: it is read forward, and backward only where something before it is trained.
_FROZEN_PASSES = 1

#: … and how many such copies it touches: weight and gradient.
_TRAIN_COPIES = 2


def facts(decoder: Decoder, dtype_bytes: int, train_tokens: int, *, trains_in: torch.dtype | None = None) -> ModelFacts:
    """Return the model's counts.

    Args:
        decoder: the model.
        dtype_bytes: bytes of a number in the decode state.
        train_tokens: length of a training row.
        trains_in: the type in which training computes; None for inference, in the weights' own.
    """
    blocks = _blocks(decoder)
    total = num_parameters(decoder)
    head = 0 if decoder.head is None else decoder.head.weight.numel()
    idle = sum(block.mlp.num_parameters() - block.mlp.num_active_parameters() for block in blocks)
    return ModelFacts(
        parameters_total=total,
        parameters_active=total - idle,
        parameters_embedding=decoder.embed.weight.numel() + head,
        weight_bytes=stored_bytes(decoder),
        adjusted=decoder.adjusted,
        cache_bytes_per_token=cache_bytes_per_token(decoder, dtype_bytes),
        state_bytes=sum(block.mixer.state_bytes(dtype_bytes) for block in blocks),
        train_flops_per_token=_train_flops(decoder, train_tokens) / train_tokens,
        parameters_trained=0 if trains_in is None else sum(p.numel() for p in _trained(decoder)),
        implementations=_implementations(blocks[0], trains_in or decoder.dtype, gradients=trains_in is not None),
    )


def forward_flops(decoder: Decoder, new_tokens: int, context: int = 0, head_tokens: int | None = None) -> float:
    """Return the operations of one sequence that adds `new_tokens` after `context` tokens.

    Args:
        decoder: the model.
        new_tokens: tokens of this pass.
        context: tokens remembered.
        head_tokens: tokens whose logits are computed; all new ones by default.
    """
    layers = sum(
        block.mixer.model_flops(new_tokens, context) + block.mlp.model_flops(new_tokens) for block in _blocks(decoder)
    )
    head = 2.0 * decoder.head_weight.numel() * (new_tokens if head_tokens is None else head_tokens)
    return layers + head


def reference_flops(decoder: Decoder, num_tokens: int) -> float:
    """Return the operations of one sequence with every attention score written out, as torch's counter counts them."""
    layers = sum(
        block.mixer.reference_flops(num_tokens) + block.mlp.reference_flops(num_tokens) for block in _blocks(decoder)
    )
    return layers + 2.0 * decoder.head_weight.numel() * num_tokens


def cache_bytes_per_token(decoder: Decoder, dtype_bytes: int) -> float:
    """Return the growth of the decode state a token and a sequence, over all layers; of a coded cache, what it takes.

    Args:
        decoder: the model.
        dtype_bytes: bytes of a number in a cache that is not coded.
    """
    coded = decoder.coded_bytes_per_token()
    if coded is not None:
        return coded
    return sum(block.mixer.cache_bytes_per_token(dtype_bytes) for block in _blocks(decoder))


def train_work(decoder: Decoder, rows: int, tokens: int, state_bytes: float | None = None) -> Work:
    """Return the work of one optimiser step on `rows` rows of `tokens` tokens.

    `moved_bytes` counts weights, gradients and the optimiser's state, and no activations: how often those cross the
    memory depends on the implementation.

    Args:
        decoder: the model.
        rows: of one step.
        tokens: of a row.
        state_bytes: the optimiser's on this device; None for two moments as large as what is trained (AdamW).
    """
    weights = stored_bytes(decoder, trained_only=True)
    table = decoder.embed.weight
    unread = 0 if decoder.head is None or table.requires_grad else table.nbytes  # but for the rows in use
    frozen = stored_bytes(decoder) - weights - unread
    state = 2 * weights if state_bytes is None else state_bytes
    return Work(
        tokens=rows * tokens,
        samples=rows,
        model_flops=rows * _train_flops(decoder, tokens),
        moved_bytes=float(_TRAIN_PASSES * weights + _FROZEN_PASSES * frozen + 2 * state),
        working_set_bytes=float(_TRAIN_COPIES * weights + frozen + state),
    )


def prefill_work(decoder: Decoder, batch: int, tokens: int) -> Work:
    """Return the work of reading a prompt: all layers over all tokens, the head over the last one of each row."""
    dtype_bytes = decoder.dtype.itemsize
    written = batch * tokens * cache_bytes_per_token(decoder, dtype_bytes)
    constant = batch * sum(block.mixer.state_bytes(dtype_bytes) for block in _blocks(decoder))
    moved = _weight_bytes_read(decoder, batch * tokens, tokens) + written + constant
    return Work(
        tokens=batch * tokens,
        samples=batch,
        model_flops=batch * forward_flops(decoder, tokens, head_tokens=1),
        moved_bytes=moved,
        working_set_bytes=moved,
    )


def decode_work(decoder: Decoder, batch: int, context: int) -> Work:
    """Return the work of one further token in each row, with `context` tokens already in the state.

    `moved_bytes`: the weights once, what each row's token sees of its state, and what is added to it; the constant part
    is read and written. `working_set_bytes` has each once.
    """
    dtype_bytes = decoder.dtype.itemsize
    read = batch * _state_bytes_read(decoder, context)
    written = batch * cache_bytes_per_token(decoder, dtype_bytes)
    rewritten = batch * sum(block.mixer.state_bytes(dtype_bytes) for block in _blocks(decoder))
    touched = _weight_bytes_read(decoder, batch, 1) + read + written
    return Work(
        tokens=batch,
        samples=batch,
        model_flops=batch * forward_flops(decoder, 1, context),
        moved_bytes=touched + rewritten,
        working_set_bytes=touched,
    )


def _train_flops(decoder: Decoder, tokens: int) -> float:
    """Return the operations of forward and backward pass on one sequence."""
    if _partly_frozen(decoder):
        return train_flops(decoder, tokens)
    return _TRAIN_FACTOR * forward_flops(decoder, tokens)


def _trained(decoder: Decoder) -> list[torch.nn.Parameter]:
    return [parameter for parameter in decoder.parameters() if parameter.requires_grad]


def _partly_frozen(decoder: Decoder) -> bool:
    """Whether some weights are trained and others are not; a model that only infers is counted as if all were."""
    return len({parameter.requires_grad for parameter in decoder.parameters()}) == 2


def _state_bytes_read(decoder: Decoder, context: int) -> float:
    """Return the fewest bytes of state that one further token of a sequence reads."""
    dtype_bytes, blocks = decoder.dtype.itemsize, _blocks(decoder)
    plain = sum(block.mixer.read_bytes(context, dtype_bytes) for block in blocks)
    coded = decoder.coded_bytes_per_token()
    if coded is None:
        return plain
    # What can be coded is a cache alone, of which a token reads the same part, however it is held.
    return plain * coded / sum(block.mixer.cache_bytes_per_token(dtype_bytes) for block in blocks)


def _weight_bytes_read(decoder: Decoder, num_tokens: int, num_positions: int) -> float:
    """Return the fewest bytes of weights that serve so many tokens at so many different positions.

    All but the tables of tokens and positions, of which only the rows in use are read. A tied embedding is read as a
    whole all the same: it is the head.
    """
    table = decoder.embed.weight
    idle = sum(block.mlp.num_parameters() - block.mlp.read_parameters(num_tokens) for block in _blocks(decoder))
    idle += decoder.position.num_parameters() - decoder.position.read_parameters(num_positions)
    rows = min(num_tokens, table.shape[0]) * table.shape[1] * table.element_size()
    unread_table = 0 if decoder.head is None else table.nbytes
    return float(stored_bytes(decoder) - unread_table + rows - idle * table.element_size())


def _implementations(block: Block, dtype: torch.dtype, *, gradients: bool) -> dict[str, str]:
    """Return slot -> how it computes here, for the slots that have several ways; all layers have the same."""
    parts = {"mixer": block.mixer, "mlp": block.mlp}
    named = {slot: part.implementation(dtype, gradients=gradients) for slot, part in parts.items()}
    return {slot: name for slot, name in named.items() if name}


def _blocks(decoder: Decoder) -> list[Block]:
    return [decoder.block(number) for number in range(decoder.shape.num_layers)]
