"""The workload `serve`, on real servers in threads and processes: its windows, its refusals, and what it leaves."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

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
from efficientllm.store.folder import Study
from efficientllm.workloads.serve import meets
from efficientllm.workloads.serving import Seen

PROGRAM = f"{sys.executable} {Path(speaking_server.__file__)} --port {{port}}"
#: It starts a process of its own, and both must be ended.
FAMILY = "import subprocess, sys; subprocess.run(sys.argv[1:])"


def serve(text, folder, **given):
    """Run a trial in this process; return its end, what was told, and its windows by name."""
    fields = {"requests": 12, "heldout_tokens": 256, "sequence_tokens": 32, "vocab_tokens": 320, "warmup_requests": 2}
    fields |= {"loads": (Load(concurrency=2, tokens=16, new_tokens=4),), "stall_s": 0.4, "start_limit_s": 20.0}
    settings = ServeSettings(corpus=Choice(name=str(text / "corpus")), **(fields | given))
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
        assert len(pids) == 2 and all(map(psutil.pid_exists, pids))
    assert not any(map(psutil.pid_exists, pids))


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
    assert pids and all(map(psutil.pid_exists, pids))
    ours.kill()
    ours.wait()
    ours.stdout.close()
    end_s = time.perf_counter() + 10.0
    while any(map(psutil.pid_exists, pids)) and time.perf_counter() < end_s:
        time.sleep(0.05)
    assert not any(map(psutil.pid_exists, pids))


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
    """One request at a time, 8 ms each: up to 125 a second, less what queueing at random arrivals costs."""
    search = RateSearch(ttft_p95_s=0.08, tpot_p95_s=1.0, start_per_minute=4000, precision=0.6, repeats=1, tokens=8,
                        new_tokens=2)  # fmt: skip
    with speaking(first_s=0.004, each_s=0.004, at_once=1) as (url, _):
        end, _, seen = serve(text, tmp_path, url=url, loads=(), search=search, requests=200, stall_s=5.0)
    assert end.outcome == "ok", end
    found = next(window for window in seen if window.name == "capacity")
    assert found.figures["rate_high_per_s"] <= 270 and metric("highest_rate", found) <= 125
    assert found.figures["tried_rates"] == len({w.coordinates["per_minute"] for w in seen if w.name == "search"})


def test_a_run_of_a_started_server_measures_its_processes(text, tmp_path):
    recipe = tmp_path / "mini.yaml"
    recipe.write_text(f"""
name: mini
protocol: smoke
stages:
  - workload: serve
    corpus: {text / "corpus"}
    vocab_tokens: 320
    sequence_tokens: 32
    heldout_tokens: 256
    requests: 40
    command: "{PROGRAM}"
    loads: [{{concurrency: 2, tokens: 16, new_tokens: 8}}]
""")
    words = [sys.executable, "-m", "efficientllm.cli.main", "run", str(recipe), "--results", str(tmp_path / "results")]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "End to end" in done.stdout
    (measured,) = Study.open(tmp_path / "results" / "mini").measurements()
    window = measured.find("serve", concurrency=2)
    # the client alone took what it took before; what came to it is the server's interpreter
    added = max(window.find("process_memory_bytes").values) - measured.figures["memory_baseline_bytes"]
    assert added > measured.figures["server_idle_bytes"] > 4e6
    assert measured.find("quality").figures["heldout_nats_per_token"] == 2.0


def test_a_server_that_never_answers_leaves_its_last_words():
    with (
        LaunchedServer("sh -c 'echo loading; sleep 30' {port}", model="", dtype="") as server,
        pytest.raises(EndpointError, match="'loading'"),
    ):
        server.wait(0.4)
