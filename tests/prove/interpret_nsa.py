"""Runs NSA's Triton kernels in Triton's interpreter, on the processor, and holds them to the plain forms.

    TRITON_INTERPRET=1 python interpret_nsa.py QUERY_HEADS KV_HEADS HEAD_DIM SELECT_BLOCK

Prints the largest differences of results and gradients and fails where one is above the contract's tolerance.
"""

import sys
from dataclasses import replace

import torch

from efficientllm import registry
from efficientllm.models.mixers import _checks, _nsa_kernel_op, nsa
from efficientllm.models.mixers._contract import MixerEntry
from efficientllm.models.mixers._nsa_blocks import Blocks
from efficientllm.models.mixers._nsa_branches import selected_branch
from efficientllm.models.mixers._nsa_select import choose_blocks, entry_probabilities, layout_of, packed_layout
from efficientllm.models.mixers._probe import TOLERANCE
from efficientllm.models.position._contract import Position, positions_of


def draw(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def gap(got, expected):
    return ((got - expected).abs().max() / expected.abs().max().clamp(min=1.0)).item()


def compare(q, k, v, picks, layout, blocks):
    """Return the gaps of the result and of the three gradients."""
    starts, aligned = layout.first_keys(picks, blocks), layout.skip_BT is None
    pull = draw(*q.shape).transpose(1, 2).contiguous().transpose(1, 2)  # strided, as the gates' gradient is
    results = []
    for path in (
        lambda q, k, v: _nsa_kernel_op.selected_attention(q, k, v, starts, 0.3, blocks.select_block, aligned),
        lambda q, k, v: selected_branch(q, k, v, picks, layout, blocks, 0.3),
    ):
        leaves = [x.clone().requires_grad_() for x in (q, k, v)]
        out = path(*(x.transpose(1, 2).contiguous().transpose(1, 2) for x in leaves))
        results.append([out.detach(), *torch.autograd.grad(out, leaves, pull)])
    return [gap(*pair) for pair in zip(*results, strict=True)]


def case(heads, kv_heads, head_dim, blocks, new, past, packed):
    """Compare on two rows of `new` queries that end `past + new` keys."""
    seen = past + new
    q, k, v = draw(2, heads, new, head_dim), draw(2, kv_heads, seen, head_dim), draw(2, kv_heads, seen, head_dim) + 1
    if packed:
        ids = torch.repeat_interleave(torch.tensor([4, 9, 2]), torch.tensor([1, new // 2, new - 1 - new // 2]))
        layout = packed_layout(blocks, torch.stack((ids, ids.flip(0))), positions_of(Position(), new))
    else:
        layout = layout_of(blocks, torch.arange(past, seen)[None], blocks.num_entries(seen), seen)
    entries = draw(2, kv_heads, layout.ends_BE.shape[1], head_dim)
    weights = entry_probabilities(q, entries, layout.visible(), 0.3)
    return compare(q, k, v, choose_blocks(weights, layout, blocks), layout, blocks)


def check_the_mixer(heads, kv_heads, head_dim, select_block):
    """Hold the whole mixer over the kernels to its reference, with the contract's own checks."""
    nsa.find_kernel = lambda device, dtype, head_dim, group: _nsa_kernel_op.selected_attention
    options = {"window": 16, "select_block": min(12, select_block), "compress_block": 4, "compress_stride": 2}

    def build(shape):
        shape = replace(shape, num_heads=heads, num_kv_heads=kv_heads, head_dim=head_dim)
        return registry.load("mixer", "nsa").build(shape, **options)

    entry = MixerEntry(card=registry.load("mixer", "nsa").card, build=build)
    _checks.fast_is_reference(entry)
    _checks.packing(entry)


def main(heads, kv_heads, head_dim, select_block):
    """Run odd lengths, with and without a past, and packed rows."""
    assert select_block % 2 == 0
    blocks = Blocks(16, select_block, 4, 4, 2)
    _nsa_kernel_op.PAIRS_PER_PIECE = 24  # so that lists are cut
    for new, past, packed in ((1, 0, False), (67, 0, False), (13, 100, False), (61, 0, True)):
        gaps = case(heads, kv_heads, head_dim, blocks, new, past, packed)
        print(f"{new} tokens after {past}, packed={packed}: " + " ".join(f"{x:.1e}" for x in gaps))
        assert max(gaps) < TOLERANCE, "the kernels differ from the plain branch"
    if head_dim < 32:  # the probe's positions are for narrow heads, and the interpreter is slow
        check_the_mixer(heads, kv_heads, head_dim, select_block)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
