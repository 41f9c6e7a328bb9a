"""The lists that the gradients of NSA's keys and values go by: for each tile of keys, the queries that reach into it.

The first block is in every query's choice, so its list is as long as the sequence, and one program would be busy with
it long after the others are done: lists are cut into pieces. Nothing here waits for the device to tell a number.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def pieces_of(
    starts: Tensor, num_keys: int, select_block: int, tile: int, aligned: bool, most: int
) -> dict[str, Tensor]:
    """Return which queries reach into which tile of keys, cut into pieces; X: rows × key/value heads.

    Args:
        starts: XTn, first key of each selected block.
        num_keys: S.
        select_block: keys of a block.
        tile: keys of a tile.
        aligned: whether all blocks start at a multiple of `select_block`.
        most: pairs of a piece at most.

    Returns:
        `query` and `start` of each pair, sorted by tile; `tile`, `low` and `high` of each piece, as many as there can
        be, of which the last may be empty; `bound`: a tile's pieces begin at bound[tile] and end before the next.
    """
    rows, num_queries, num_picks = starts.shape
    num_tiles = -(-num_keys // tile)
    spans = _tiles_of_a_block(select_block, tile, aligned)
    tile_of = starts[..., None] // tile + torch.arange(spans, device=starts.device)
    query_T11 = torch.arange(num_queries, device=starts.device)[:, None, None] + (num_keys - num_queries)
    last = torch.minimum(starts[..., None] + (select_block - 1), query_T11)
    exists = (starts[..., None] >= 0) & (tile_of * tile <= last)
    sorted_tiles, order = torch.where(exists, tile_of, num_tiles).flatten(1).sort(dim=1, stable=True)
    bounds = torch.arange(num_tiles + 1, device=starts.device).expand(rows, -1).contiguous()
    first_pair = torch.searchsorted(sorted_tiles, bounds.to(sorted_tiles.dtype))
    pieces = (first_pair.diff(dim=1) + (most - 1)) // most
    bound = F.pad(pieces.cumsum(1), (1, 0))
    number = torch.arange(order.shape[1] // most + num_tiles, device=starts.device).expand(rows, -1)
    number = number.contiguous()
    own_tile = torch.searchsorted(bound[:, 1:].contiguous(), number, right=True)
    exists_piece, own_tile = own_tile < num_tiles, own_tile.clamp(max=num_tiles - 1)
    low = first_pair.gather(1, own_tile) + (number - bound.gather(1, own_tile)) * most
    high = torch.minimum(low + most, first_pair.gather(1, own_tile + 1))
    found = {
        "query": order // (num_picks * spans),
        "start": starts.flatten(1).gather(1, order // spans),
        "tile": own_tile,
        "low": low * exists_piece,
        "high": high * exists_piece,
        "bound": bound,
    }
    return {name: x.int().contiguous() for name, x in found.items()}


def _tiles_of_a_block(select_block: int, tile: int, aligned: bool) -> int:
    """Return how many tiles a block touches at most."""
    if aligned and tile % select_block == 0:
        return 1
    if aligned and select_block % tile == 0:
        return select_block // tile
    return (select_block + tile - 2) // tile + 1
