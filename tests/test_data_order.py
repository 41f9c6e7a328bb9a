"""The training order: every token once an epoch, the same for any number of ranks, resumable at any step."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from efficientllm.data.order import TrainOrder, permutation


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("rows_per_step", [1, 4])
def test_every_token_is_trained_on_once_an_epoch_over_all_ranks(world, rows_per_step):
    num_tokens, sequence_tokens = 1231, 10
    orders = [TrainOrder(num_tokens, sequence_tokens, seed=3, rank=r, world=world) for r in range(world)]
    rows = orders[0].rows_per_epoch
    steps = -(-2 * rows // (world * rows_per_step))
    seen = np.concatenate([order.rows(step, rows_per_step) for step in range(steps) for order in orders])
    for epoch in range(2):
        counts = np.zeros(num_tokens, dtype=int)
        for start in seen[epoch * rows : (epoch + 1) * rows]:
            counts[start + 1 : start + sequence_tokens + 1] += 1
        assert (counts[1:] == 1).all() and counts[0] == 0
    assert not np.array_equal(seen[:rows], seen[rows : 2 * rows])


@given(st.integers(1, 4), st.integers(1, 5), st.integers(0, 40), st.integers(2, 60))
def test_several_ranks_see_the_steps_of_one_rank_with_as_many_rows(world, rows_per_step, step, rows):
    one = TrainOrder(rows * 8 + 1, 8, seed=1)
    ranks = [TrainOrder(rows * 8 + 1, 8, seed=1, rank=r, world=world) for r in range(world)]
    together = np.concatenate([order.rows(step, rows_per_step) for order in ranks])
    assert np.array_equal(together, one.rows(step, rows_per_step * world))


def test_a_resumed_run_goes_on_exactly():
    order, steps = TrainOrder(10_000, 16, seed=5), range(300)
    whole = [order.rows(step, 3) for step in steps]
    resumed = TrainOrder(10_000, 16, seed=5)
    assert all(np.array_equal(resumed.rows(step, 3), whole[step]) for step in reversed(steps))
    first = [start for start, _ in zip(resumed, range(900), strict=False)]
    assert first == np.concatenate(whole).tolist()


def test_seeds_and_epochs_give_orders_of_their_own():
    orders = {tuple(permutation(50, seed, epoch).tolist()) for seed in (-1, 0, 1, 2, 2**63) for epoch in range(4)}
    assert len(orders) == 20 and all(sorted(order) == list(range(50)) for order in orders)


def test_the_order_has_no_bias_towards_the_files_beginning():
    places = np.stack([permutation(20, seed, 0) for seed in range(2000)])
    mean = places.mean(axis=0)  # 9.5, with a standard error of 0.13
    assert np.abs(mean - 9.5).max() < 0.65


def test_the_order_is_fixed_for_ever():
    assert permutation(10, seed=42, epoch=7).tolist() == [9, 5, 0, 2, 4, 3, 8, 7, 1, 6]


def test_an_order_that_cannot_be_is_refused():
    for wrong in ({"rank": 2, "world": 2}, {"rank": -1}, {"num_tokens": 8}):
        with pytest.raises(ValueError, match=r"rank|tokens"):
            TrainOrder(**{"num_tokens": 100, "sequence_tokens": 8, "seed": 0, **wrong})
