"""Loads: closed loops, arrivals at random, a stall that is not forgiven, and the search for a server's capacity."""

from __future__ import annotations

import itertools
import random
import statistics

import pytest
from tests.speaking_server import speaking

from efficientllm.engines._endpoint_client import Endpoint, find_dialect
from efficientllm.engines._endpoint_load import LoadRun, poisson_arrivals, tokens_within
from efficientllm.engines._endpoint_stream import Reply
from efficientllm.workloads.rate_search import search_rate


def seen_of(url, count, **load):
    endpoint = find_dialect(Endpoint(url, stall_s=5.0))
    with LoadRun(lambda prompt, reply: endpoint.ask(prompt, 4, reply), ["a", "b", "c"], **load) as run:
        run.wait_for(2, 10.0)
        replies = list(run.measured(run.next_index(), count, 20.0))
    return replies, run


def test_a_closed_loop_keeps_so_many_under_way():
    with speaking(first_s=0.02, each_s=0.005) as (url, _):
        replies, run = seen_of(url, 12, concurrency=3)
    assert [reply.error for reply in replies] == [""] * 12
    assert len({reply.index for reply in replies}) == 12
    spans = [(reply.sent_s, reply.end_s) for reply in run.replies]
    most = max(sum(begin <= at < end for begin, end in spans) for at, _ in spans)
    assert most == 3
    assert len(run.replies) >= 14  # the load went on until the last measured one had ended, and was drained


def test_arrivals_are_random_with_the_right_mean_and_the_same_again():
    times = list(itertools.islice(poisson_arrivals(50.0, seed=3), 4000))
    gaps = [b - a for a, b in itertools.pairwise(times)]
    assert statistics.fmean(gaps) == pytest.approx(1 / 50, rel=0.06)
    assert statistics.pstdev(gaps) == pytest.approx(1 / 50, rel=0.1)  # as exponential gaps have, and even ones have not
    assert times == list(itertools.islice(poisson_arrivals(50.0, seed=3), 4000))
    assert times != list(itertools.islice(poisson_arrivals(50.0, seed=4), 4000))


def test_a_stalled_server_is_not_forgiven_those_that_had_to_wait():
    """Requests that arrive while it stands still wait in its queue: each of them has its whole wait in its latency."""
    with speaking(first_s=0.002, each_s=0.001, at_once=1, pause_at=12, pause_s=0.8) as (url, _):
        replies, _ = seen_of(url, 40, per_second=40.0, seed=1)
    assert not any(reply.error for reply in replies)
    waits = sorted(reply.at_s[0] - reply.intended_s for reply in replies)
    # some 32 arrive in the 0.8 s; one by one, each sent after the one before, a single one would have been late
    assert sum(wait > 0.2 for wait in waits) >= 12
    assert waits[-1] >= 0.7


def test_requests_that_do_not_end_in_time_are_failures_and_not_left_out():
    with speaking(first_s=3.0) as (url, behaviour):
        behaviour.first_s = 0.0
        endpoint = find_dialect(Endpoint(url, stall_s=5.0))
        behaviour.first_s = 1.0
        with LoadRun(lambda p, r: endpoint.ask(p, 2, r), ["a"], concurrency=2, drain_s=3.0) as run:
            late = list(run.measured(0, 4, 0.3))
    assert len(late) == 4 and all("had not ended" in reply.error for reply in late)


def test_tokens_of_replies_that_lie_partly_in_a_span_count_by_their_share():
    inside = Reply(at_s=[1.0, 2.0], pieces=["a", "b"], tokens=8)
    half = Reply(at_s=[2.0, 4.0], pieces=["a", "b"], tokens=6)
    assert tokens_within([inside, half], 0.5, 3.0) == 8 + 3


def test_the_search_brackets_a_known_capacity_and_doubts_lie_inside():
    draw = random.Random(1)
    noisy = search_rate(
        lambda rate: rate < 300 or (rate < 420 and draw.random() < 0.5), start=10, precision=0.05, repeats=3
    )
    assert noisy.low <= 330 and noisy.high >= 300 and noisy.low < noisy.high
    assert all(all(held) for rate, held in noisy.tries.items() if rate <= noisy.low)
    assert not any(any(held) for rate, held in noisy.tries.items() if rate >= noisy.high)
    down = search_rate(lambda rate: rate <= 7, start=1000, precision=0.01, repeats=1)
    assert (down.low, down.high) == (7, 8)
    assert search_rate(lambda _: True, start=10**3, precision=0.1, repeats=1).high is None
