"""NSA's compression: each block of tokens becomes one entry, through an MLP with a place embedding within the block."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from efficientllm.models.linear import Linear
from efficientllm.models.mixers._nsa_blocks import Blocks
from efficientllm.models.position._contract import Positions


class Compression(nn.Module):
    """Maps the vectors of a block, side by side, to one: up is (block * H) x H, then GELU, then H x H.

    One for keys and one for values, each shared by all key/value heads. The place embedding is added to the tokens
    before; through a linear layer it acts as a learned bias, which therefore is not there a second time.
    """

    def __init__(self, blocks: Blocks, head_dim: int) -> None:
        super().__init__()
        self.blocks = blocks
        self.places = nn.Parameter(torch.zeros(blocks.compress_block, head_dim))
        self.mix = Linear(blocks.compress_block * head_dim, head_dim)
        self.out = Linear(head_dim, head_dim)

    def forward(self, tokens_BKECH: Tensor) -> Tensor:
        """Return the entries BKEH of blocks of C tokens each."""
        entries_BKEH: Tensor = self.out(F.gelu(self.mix((tokens_BKECH + self.places).flatten(3))))
        return entries_BKEH

    def consecutive(self, raw_BKTH: Tensor) -> Tensor:
        """Return the entries of all blocks that lie wholly in these tokens, the first of which begins one."""
        blocks = self.blocks
        batch, num_kv_heads, num_tokens, head_dim = raw_BKTH.shape
        if not blocks.num_entries(num_tokens):
            return raw_BKTH.new_zeros(batch, num_kv_heads, 0, head_dim)
        out_BKEH: Tensor = self(raw_BKTH.unfold(2, blocks.compress_block, blocks.compress_stride).transpose(3, 4))
        return out_BKEH

    def ending_at(self, raw_BKTH: Tensor, ends_BE: Tensor) -> Tensor:
        """Return the entries whose last tokens these are (packed rows); where one does not exist, something finite."""
        batch, num_kv_heads, num_tokens, head_dim = raw_BKTH.shape
        back_C = torch.arange(1 - self.blocks.compress_block, 1, device=raw_BKTH.device)
        index_BEC = (ends_BE[..., None] + back_C).clamp(0, num_tokens - 1)
        index = index_BEC.flatten(1)[:, None, :, None].expand(batch, num_kv_heads, -1, head_dim)
        out_BKEH: Tensor = self(raw_BKTH.gather(2, index).unflatten(2, index_BEC.shape[1:]))
        return out_BKEH

    def flops_per_entry(self) -> float:
        """Return the operations of one entry of one head."""
        return self.mix.flops_per_token() + self.out.flops_per_token()


def rotate_entries(k_BKEH: Tensor, positions: Positions, ends_BE: Tensor) -> Tensor:
    """Return the compressed keys, each turned by the position of its block's last token.

    Args:
        k_BKEH: keys, compressed from keys that were not turned.
        positions: of the tokens of this call.
        ends_BE: index of each entry's last token among these; one row if all rows are alike.
    """
    if not k_BKEH.shape[2]:
        return k_BKEH
    index_BT = positions.index_BT
    rows = max(index_BT.shape[0], ends_BE.shape[0])
    ends_BE = ends_BE.clamp(max=index_BT.shape[1] - 1).expand(rows, -1)
    places_BE = index_BT.expand(rows, -1).gather(1, ends_BE)
    return positions.encoding.at(places_BE, k_BKEH.dtype).rotate(k_BKEH[:, :1], k_BKEH)[1]
