"""The lists behind the gradients of NSA's keys and values: every pair once, in the tile where it belongs."""

import pytest
import torch

from efficientllm.models.mixers._nsa_pieces import pieces_of


@pytest.mark.parametrize(
    ("select_block", "tile", "aligned"),
    [(8, 16, True), (16, 16, True), (64, 16, True), (6, 16, True), (40, 16, True), (8, 16, False), (20, 16, False)],
)
@pytest.mark.parametrize("most", [1, 5, 1000])
def test_each_pair_of_a_query_and_a_tile_is_listed_once(select_block, tile, aligned, most):
    num_queries, num_keys = 50, 73
    generator = torch.Generator().manual_seed(select_block)
    starts = torch.full((2, num_queries, 3), -1)
    for row, query in ((r, q) for r in range(2) for q in range(num_queries)):
        here = num_keys - num_queries + query
        step = select_block if aligned else 1
        choices = torch.randperm(here // step + 1, generator=generator)[:3] * step
        starts[row, query, : len(choices)] = choices
    lists = pieces_of(starts, num_keys, select_block, tile, aligned, most)
    for row in range(2):
        expected = sorted(
            (key // tile, query, int(start))
            for query in range(num_queries)
            for start in starts[row, query]
            if start >= 0
            for key in {
                k // tile * tile for k in range(start, min(start + select_block, num_keys - num_queries + query + 1))
            }
        )
        listed = []
        pieces = zip(*(lists[name][row].tolist() for name in ("tile", "low", "high")), strict=True)
        for number, (own, low, high) in enumerate(pieces):
            assert high - low <= most
            if low < high:
                assert lists["bound"][row, own] <= number < lists["bound"][row, own + 1]
            pairs = zip(lists["query"][row, low:high].tolist(), lists["start"][row, low:high].tolist(), strict=True)
            listed += [(own, query, start) for query, start in pairs]
        assert sorted(listed) == expected
