"""The workload `serve`, on real servers in threads and processes: its windows, its refusals, and what it leaves."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import psutil
import pytest
from tests import speaking_server
from tests.speaking_server import speaking

from efficientllm.analysis import catalogue
from efficientllm.analysis.metrics._contract import Absent
from efficientllm.bench.assemble import sort_out, windows
from efficientllm.bench.job import JobFile
from efficientllm.bench.worker import run_job
from efficientllm.devices.choose import open_device
from efficientllm.engines._endpoint_server import LaunchedServer, fill_command
from efficientllm.engines._endpoint_stream import EndpointError
from efficientllm.errors import UserError
from efficientllm.meters.marks import Marks
from efficientllm.meters.samples import Samples
from efficientllm.records import events
from efficientllm.records.choice import Choice
from efficientllm.records.protocol import PROTOCOLS
from efficientllm.records.series import Series
from efficientllm.records.serve_settings import Load, RateSearch, ServeSettings
from efficientllm.records.trial import make_trial
from efficientllm.workloads.serve import meets
from efficientllm.workloads.serving import Seen

PROGRAM = f"{sys.executable} {Path(speaking_server.__file__)} --port {{port}}"
#: It starts a process of its own, and both must be ended.
FAMILY = "import subprocess, sys; subprocess.run(sys.argv[1:])"


def serve(text, folder, quick=0, **given):
    """Run a trial in this process; return its end, what was told, and its windows by name."""
    fields = {"requests": 12, "heldout_tokens": 256, "sequence_tokens": 32, "vocab_tokens": 320, "warmup_requests": 2}
    fields |= {"loads": (Load(concurrency=2, tokens=16, new_tokens=4),), "stall_s": 0.4, "start_limit_s": 20.0}
    settings = ServeSettings(corpus=Choice(name=str(text / "corpus")), **(fields | given))
    if quick:  # fewer requests than a p95 asks for
        msgspec.structs.force_setattr(settings, "requests", quick)
    trial = make_trial(settings=settings, protocol=PROTOCOLS["smoke"], device="cpu", seed=0, repeat=0)
    device = open_device("cpu")
    begin_s, marks = time.perf_counter(), Marks(folder / "events.jsonl", device, trial.protocol)
    end = run_job(JobFile(trial=trial, cache=str(text / "cache"), threads=1), marks, device)
    marks.close()
    at_s = (begin_s, time.perf_counter())
    power = Series(name="power_w", unit="w", at_s=at_s, values=(100.0, 100.0))
    memory = Series(name="process_memory_bytes", unit="bytes", at_s=at_s, values=(5e8, 5e8))
    series = {one.name: one for one in (power, memory)}
    samples = Samples(device=device.info(), series=series, absent={}, begin_s=begin_s, end_s=at_s[1])
    told = sort_out(events.decode_events((folder / "events.jsonl").read_bytes())[0])
    return end, told, windows(told, [samples], 0.0, at_s[1], [])


def alive(pid):
    """Whether a process runs; one that has ended may wait for its parent, or for an init that reaps nobody."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def metric(key, window):
    from efficientllm.records.examples import example_measurement

    entry = next(entry for entry in catalogue.entries() if entry.column.key == key)
    return entry.value(example_measurement(), window)


def test_loads_come_out_as_windows_with_latency_and_throughput(text, tmp_path):
    loads = (Load(concurrency=2, tokens=16, new_tokens=4), Load(per_minute=1800, tokens=16, new_tokens=4))
    with speaking(first_s=0.02, each_s=0.01, logprobs=True) as (url, behaviour):
        end, _, seen = serve(text, tmp_path, url=url, loads=loads)
    assert (end.outcome, end.reason) == ("ok", "")
    closed, arriving, quality = seen
    assert closed.coordinates == {"concurrency": 2, "tokens": 16, "new_tokens": 4}
    assert arriving.coordinates == {"per_minute": 1800, "tokens": 16, "new_tokens": 4}
    for window in (closed, arriving):
        assert len(window.find("ttft_s").values) == len(window.find("request_s").values) == 12
        assert 0.02 <= metric("ttft", window) < 0.5 and 0.009 <= metric("tpot", window) < 0.2
        assert metric("latency_median", window) >= 0.049
        assert "p95 needs 200 samples, there are 12" in metric("ttft_p95", window).reason
        assert metric("failed_requests", window) == 0
        assert metric("energy_per_token", window) == pytest.approx(100.0 / metric("tokens_per_s", window))
        assert metric("tokens_per_s", window) == pytest.approx(4 * metric("samples_per_s", window))
    # two at once: twice what one request's own time allows, and no more
    per_request = 4 / metric("latency_mean", closed)
    assert 1.2 * per_request < metric("tokens_per_s", closed) < 2.4 * per_request
    assert quality.figures["heldout_nats_per_token"] == 2.0
    prompts = [body["prompt"] for body in behaviour.bodies if body.get("max_tokens") == 4]
    assert len(set(prompts)) > 0.8 * len(prompts)  # a cache of prefixes would serve repeated ones for nothing


def test_a_window_with_too_many_failures_is_invalid_and_the_next_one_is_measured(text, tmp_path):
    faults = dict.fromkeys(range(3, 11), "refuse") | {12: "break"}
    loads = (Load(concurrency=1, tokens=16, new_tokens=4), Load(concurrency=2, tokens=16, new_tokens=4))
    with speaking(first_s=0.001, each_s=0.001, faults=faults) as (url, _):
        end, _, (bad, good, quality) = serve(text, tmp_path, url=url, loads=loads, failed_most=0.2)
    assert end.outcome == "ok" and (bad.outcome, good.outcome) == ("invalid", "ok")
    assert "requests failed, most because: /v1/completions answered 503: overloaded" in bad.reason
    assert bad.figures["failed_requests"] >= 7
    assert "no log-probabilities" in quality.absent["heldout_bits_per_byte"]


def test_a_server_elsewhere_has_no_energy_of_this_machine(text, tmp_path, monkeypatch):
    monkeypatch.setattr("efficientllm.engines._endpoint_server._is_here", lambda host: False)
    with speaking(first_s=0.001, each_s=0.001) as (url, _):
        _, _, (window, _) = serve(text, tmp_path, url=url)
    assert "another machine" in window.absent["energy_j"] and "another machine" in window.absent["process_memory_bytes"]
    assert isinstance(metric("energy_per_token", window), Absent)


def test_what_cannot_be_measured_ends_in_one_line(text, tmp_path):
    for given, said in (
        ({}, "serve needs a server: give url="),
        ({"url": "http://127.0.0.1:9"}, "cannot be reached"),
        ({"command": "no-such-program {port}"}, "No such file"),
        ({"command": f"{PROGRAM} --last-words boom"}, "ended with code 1 before it answered: 'boom'"),
        ({"command": "sleep 60 {port}", "start_limit_s": 0.5}, "did not answer at http://127.0.0.1"),
        ({"command": "serve"}, "has no {port}"),
        ({"command": "serve {model} {port}"}, "there is none: give model"),
    ):
        end, _, _ = serve(text, tmp_path, **given)
        assert end.outcome == "crashed" and said in end.reason and "\n" not in end.reason, (given, end)
    with pytest.raises(UserError, match="and a command"):
        ServeSettings(url="http://x", command="y")
    with pytest.raises(UserError, match="p95, which needs 200"):
        ServeSettings(requests=100, search=RateSearch(ttft_p95_s=1.0, tpot_p95_s=1.0))
    assert fill_command("a '{model}' {dtype} {port}", model="b c", port=1, dtype="d") == ["a", "b c", "d", "1"]


def test_a_started_server_is_ended_with_all_that_it_started():
    server = LaunchedServer(f'{sys.executable} -c "{FAMILY}" {PROGRAM}', model="", dtype="")
    with server:
        server.wait(20.0)
        pids = server.pids()
        assert len(pids) == 2 and all(map(alive, pids))
    assert not any(map(alive, pids))


def test_a_started_server_does_not_outlive_us(tmp_path):
    """Killed outright, with no chance to tidy: the guard sees the pipe close."""
    program = f"""
import time
from efficientllm.engines._endpoint_server import LaunchedServer
server = LaunchedServer({PROGRAM!r}, model="", dtype="")
server.wait(20.0)
print(*server.pids(), flush=True)
time.sleep(60)
"""
    ours = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=tmp_path,
                            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})  # fmt: skip
    pids = [int(word) for word in ours.stdout.readline().split()]
    assert pids and all(map(alive, pids))
    ours.kill()
    ours.wait()
    ours.stdout.close()
    end_s = time.perf_counter() + 10.0
    while any(map(alive, pids)) and time.perf_counter() < end_s:
        time.sleep(0.05)
    assert not any(map(alive, pids))


def test_limits_are_met_by_95_of_100_and_by_no_window_that_was_cut_short():
    search = RateSearch(ttft_p95_s=0.1, tpot_p95_s=0.05)
    settings = ServeSettings(url="http://x", requests=200, search=search)
    well = Seen(ttft_s=[0.05] * 191 + [9.0] * 9, tpot_s=[0.01] * 200, request_s=[1.0] * 200)
    assert meets(well, search, settings)
    assert not meets(
        Seen(ttft_s=[0.05] * 188 + [9.0] * 12, tpot_s=[0.01] * 200, request_s=[1.0] * 200), search, settings
    )
    assert not meets(Seen(ttft_s=[0.05] * 199, tpot_s=[0.01] * 199, request_s=[1.0] * 199), search, settings)
    assert not meets(Seen(ttft_s=well.ttft_s, tpot_s=[0.06] * 200, request_s=[1.0] * 200), search, settings)


def test_a_search_on_a_real_server_finds_what_it_can_take(text, tmp_path):
    """One request at a time, 20 ms each: 50 a second at most, and few requests do not show an overload by a half."""
    search = RateSearch(ttft_p95_s=0.15, tpot_p95_s=1.0, start_per_minute=1200, precision=1.1, repeats=1, tokens=8,
                        new_tokens=2)  # fmt: skip
    with speaking(first_s=0.01, each_s=0.01, at_once=1) as (url, _):
        end, _, seen = serve(text, tmp_path, url=url, loads=(), search=search, requests=200, quick=40, stall_s=5.0)
    assert end.outcome == "ok", end
    found = next(window for window in seen if window.name == "capacity")
    assert found.figures["rate_high_per_s"] <= 140 and metric("highest_rate", found) <= 80
    assert found.figures["tried_rates"] == len({w.coordinates["per_minute"] for w in seen if w.name == "search"})


def test_the_processes_of_a_started_server_are_watched_and_then_gone(text, tmp_path):
    end, _, (window, quality) = serve(text, tmp_path, command=PROGRAM)
    assert (end.outcome, window.outcome) == ("ok", "ok")
    assert quality.figures["heldout_nats_per_token"] == 2.0
    said, _ = events.decode_events((tmp_path / "events.jsonl").read_bytes())
    pids = [event.pid for event in said if isinstance(event, events.Begun)]
    assert len(pids) == 1 and pids[0] != os.getpid() and not alive(pids[0])
    figures = {event.name: event.value for event in said if isinstance(event, events.Figure)}
    assert figures["server_idle_bytes"] > 4e6 and "memory_preallocated" not in figures


def test_a_server_that_never_answers_leaves_its_last_words():
    with (
        LaunchedServer("sh -c 'echo loading; sleep 30' {port}", model="", dtype="") as server,
        pytest.raises(EndpointError, match="'loading'"),
    ):
        server.wait(0.4)
