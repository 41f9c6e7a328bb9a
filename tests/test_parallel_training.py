"""Two ranks over gloo train the model that one process trains: same losses, same routing, same quality."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.ranks_program import train

from efficientllm.data.order import TrainOrder

MOE = {"name": "moe", "options": {"num_experts": 3, "balance": "bias", "aux_loss": 0.1, "bias_speed": 0.05}}
#: What two ranks do; one process takes their micro-batches one after the other.
CASES = {
    "dense": {},
    "dense, two passes, checkpointed": {"accumulation": 2, "activation_checkpointing": "full"},
    "moe": {"mlp": MOE},
    "moe, two passes, checkpointed": {"mlp": MOE, "accumulation": 2, "activation_checkpointing": "full"},
    "recurrent, head of its own": {"mixer": "gated_deltanet", "shape": {"tie_embeddings": False}},
    "compiled": {"compile": True},
    "bf16": {"dtype": "bfloat16", "mlp": MOE},
}


@pytest.fixture(scope="module")
def together(text):
    """Train all cases on two ranks; return name -> result."""
    single("dense", text)  # fills the cache
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    cases = json.dumps([{**case, "ranks": 2} for case in CASES.values()])
    program = Path(__file__).with_name("ranks_program.py")
    places = os.pathsep.join([str(Path(__file__).parents[1] / "src"), os.environ.get("PYTHONPATH", "")])
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "PYTHONPATH": places}
    started = [
        subprocess.Popen(
            [sys.executable, program, str(text), cases],
            env={**os.environ, **where, "RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    said = [process.communicate(timeout=200)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0]
    return dict(zip([*CASES, "links"], json.loads(said[0]), strict=True))


def single(name, text):
    case = CASES[name]
    return train(text, {**case, "accumulation": 2 * case.get("accumulation", 1)})


@pytest.mark.parametrize("name", CASES)
def test_two_ranks_have_the_losses_routing_and_quality_of_one_process(together, text, name):
    one, two = single(name, text), together[name]
    exact = 2e-3 if name == "bf16" else 1e-5
    assert one["losses"][-1] < one["losses"][0] - 0.05
    assert two["losses"] == pytest.approx(one["losses"], rel=exact)
    assert two["watched"] == pytest.approx(one["watched"], rel=exact if name != "bf16" else 0.1)
    assert two["nats"] == pytest.approx(one["nats"], rel=exact)
    assert two["weights"] == pytest.approx(one["weights"], rel=10 * exact, abs=1e-4 if name != "bf16" else 1e-1)
    assert bool(two["loads"]) is ("mlp" in CASES[name])
    if name != "bf16":  # a near-tie that tips is no fault
        assert two["loads"] == pytest.approx(one["loads"], rel=1e-4)


def test_the_rate_of_each_collective_is_told_by_its_size(together):
    names = {f"{name}_65536_bus_bytes_per_s" for name in ("all_gather", "reduce_scatter", "all_reduce")}
    assert set(together["links"]) == names
    assert all(1e5 < rate < 1e12 for rate in together["links"].values())


@given(st.integers(1, 6), st.integers(1, 4), st.integers(1, 9), st.integers(40, 400))
def test_every_token_of_an_epoch_is_counted_once_whatever_ranks_rows_and_text_there_are(world, rows, length, tokens):
    orders = [TrainOrder(tokens, length, seed=1, rank=rank, world=world) for rank in range(world)]
    epoch = orders[0].rows_per_epoch
    steps = -(-epoch // (world * rows))
    starts = np.concatenate([order.rows(step, rows) for step in range(steps) for order in orders])[:epoch]
    counts = np.bincount((starts[:, None] + np.arange(1, length + 1)).ravel(), minlength=tokens)
    assert set(counts[1 : epoch * length + 1]) == {1} and counts.sum() == epoch * length


def test_a_rank_holds_its_share_of_the_matrices_and_all_of_the_rest(together, text):
    one, two = single("moe", text), together["moe"]
    assert one["shares"] == 0 < two["shares"]
    assert 0.45 * one["held"] < two["held"] < 0.60 * one["held"]
