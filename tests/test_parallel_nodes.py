"""Two machines, here two processes of one: a study on the first, its ranks on both, and nothing left behind."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from efficientllm.bench.nodes import Ended, FirstNode, PeerGone, Stop, join_first, parse_address
from efficientllm.errors import UserError
from efficientllm.records.environment import DeviceInfo
from efficientllm.records.examples import example_trial
from efficientllm.records.settings import PretrainSettings
from efficientllm.store.folder import Study

RECIPE = """
name: nodes
title: Two ranks on two machines
repeats: 1
protocol: smoke
stages:
  - name: pretrain
    workload: pretrain
    shape: {{num_layers: 1, width: 32, num_heads: 2, num_kv_heads: 1, head_dim: 16, mlp_width: 48}}
    corpus: {corpus}
    vocab_tokens: 320
    sequence_tokens: 32
    micro_batch: 2
    ranks: {ranks}
    tokens: {tokens}
    heldout_tokens: 256
"""


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


@pytest.fixture
def started(tmp_path):
    """Start both commands of a study over two machines; whatever is left of them is ended."""
    processes = []

    def start(*, ranks=2, tokens=2560):
        corpus = tmp_path / "corpus"
        corpus.mkdir()
        for i in range(12):
            lines = (f"line {j} of text {i}: {j * i % 7} quick foxes jump over {j % 5} lazy dogs\n" for j in range(120))
            (corpus / f"{i:02}.txt").write_text("".join(lines))
        (tmp_path / "nodes.yaml").write_text(RECIPE.format(corpus=corpus, ranks=ranks, tokens=tokens))
        address = f"127.0.0.1:{free_port()}"
        first = ["run", "nodes.yaml", "--nodes", "2", "--rendezvous", address, "--json"]
        for words in (first, ["join", address, "--results", "elsewhere", "--device", "cpu"]):
            command = [sys.executable, "-m", "efficientllm.cli.main", *words]
            place = {"cwd": tmp_path, "env": {**os.environ, "OMP_NUM_THREADS": "1"}, "text": True}
            processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **place))
        return processes

    yield start
    for process in processes:
        process.kill()


def below(process):
    return psutil.Process(process.pid).children(recursive=True)


def test_a_study_over_two_machines_has_the_ranks_of_both_and_no_energy_of_one(started, tmp_path):
    first, other = started()
    said, heard = first.communicate(timeout=150)[0], other.communicate(timeout=30)[0]
    assert (first.returncode, other.returncode) == (0, 0), said + heard
    assert "pretrain" in heard and "the study is over" in heard
    (record,) = Study(tmp_path / "results", "nodes").read_all()[0]
    assert record.outcome == "ok", record.reason
    assert record.figures["tokens_fed"] == record.trial.settings.tokens == 2560
    assert len(record.environment.devices) == 2
    train = record.find("train")
    for name in ("energy_j", "power_w", "process_memory_bytes", "allocated_peak_bytes"):
        assert train.absent[name] == "measured on the first node's devices only"
    assert not {series.name for series in train.series} - {"step_s", "temperature_c", "clock_hz"}
    assert train.figures["communication_s_per_step"] > 0


@pytest.mark.prove
def test_a_machine_that_dies_ends_the_trial_on_the_other_within_seconds(started, tmp_path):
    first, other = started(tokens=70_000)
    for _ in range(600):
        time.sleep(0.1)
        folders = {Path(p.cmdline()[-1]) for p in below(other) if "bench.worker" in " ".join(p.cmdline())}
        files = [folder / "events.1.jsonl" for folder in folders]
        if any(file.exists() and "loss " in file.read_text() for file in files):
            break
    for process in [psutil.Process(other.pid), *below(other)]:
        process.send_signal(signal.SIGKILL)
    killed_s = time.perf_counter()
    said = first.communicate(timeout=60)[0]
    assert time.perf_counter() - killed_s < 15
    assert first.returncode == 1, said
    (record,) = Study(tmp_path / "results", "nodes").read_all()[0]
    assert (record.outcome, record.reason) == ("crashed", "node 1 was lost: the connection was closed")


def test_the_first_machines_death_sends_the_others_home():
    first = FirstNode(f"127.0.0.1:{free_port()}", 2)
    address = "{}:{}".format(*first._door.getsockname())
    other = join_first(address, [DeviceInfo(kind="cuda", name="x", uuid="0")])
    first.gather(5.0)
    assert other.receive(0.0) is None
    first.__exit__(None, None, None)
    assert other.receive(5.0) == Stop(study=True)
    with pytest.raises(PeerGone):
        other.receive(5.0)


def test_what_ends_elsewhere_is_told_with_its_reason_and_a_trial_must_divide():
    with FirstNode(f"127.0.0.1:{free_port()}", 2) as first:
        address = "{}:{}".format(*first._door.getsockname())
        other = join_first(address, [DeviceInfo(kind="cuda", name="x", uuid="0")])
        first.gather(5.0)
        other.send(Ended(outcome="oom", reason="rank 1: out of memory"))
        assert first.failure(wait_s=5.0) == Ended(outcome="oom", reason="node 1: rank 1: out of memory")
        three, four = (example_trial(PretrainSettings(ranks=ranks)) for ranks in (3, 4))
        assert first.reason_against(three) == "ranks 3 do not divide over 2 nodes"
        assert first.reason_against(four) == "ranks 4, but a node has 1 device(s) for 2 of them"


@pytest.mark.parametrize("text", ["here", "here:", ":1", "here:99999", "here:one"])
def test_an_address_without_host_or_port_is_refused(text):
    with pytest.raises(UserError, match="HOST:PORT"):
        parse_address(text)


def test_nobody_to_join_and_nobody_who_joins_are_said():
    with pytest.raises(UserError, match="nobody listens"):
        join_first(f"127.0.0.1:{free_port()}", [], patience_s=0.1)
    with FirstNode(f"127.0.0.1:{free_port()}", 2) as first, pytest.raises(UserError, match="1 of 2 nodes are there"):
        first.gather(0.1)
