"""Starts what a trial runs in, ends it, and says how it ended: one worker, or torchrun with a worker for each rank.

    runner ── worker                                        events.jsonl
    runner ── torchrun ─┬─ worker, rank 0                   events.jsonl
                        └─ worker, rank 1                   events.1.jsonl

No rank outlives the others, torchrun or the runner: torchrun ends all when one fails; a rank ends when torchrun has
gone, or when its standard input, which it has from the runner, ends.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil

from efficientllm.bench.job import OUTPUT_FILE, JobFile
from efficientllm.records import events

#: What a worker finds in its environment, unless the user has set it. The spin count bounds how long OpenMP's threads
#: wait awake for one another: without a bound one busy neighbour on a shared core makes a step 30 times longer
#: (2.9 s for 0.08 s, measured on two cores), with this one 3 times; on a quiet machine it costs a fifth of a tiny step.
_WORKER_ENVIRONMENT = {"TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1", "GOMP_SPINCOUNT": "10000"}

_GRACE_S = 5.0
_WORKER = ("-m", "efficientllm.bench.worker")

#: How torchrun reports a rank in its last words.
_REPORTED = re.compile(r"rank\s*: (\d+) \(local_rank: \d+\)\s*exitcode\s*: (-?\d+)")
#: What a rank says when another has gone; the other's own reason is the one to give.
_OF_PEERS = re.compile(r"peer|NCCL|gloo|DistBackend|ProcessGroup", re.IGNORECASE)
#: Signals by which the ranks are ended together; any other hit one of them alone.
_TOGETHER = (-signal.SIGTERM, -signal.SIGINT)


def start_worker(
    folder: Path, further: int = subprocess.DEVNULL, job: JobFile | None = None
) -> subprocess.Popen[bytes]:
    """Start the measured process or processes in a session of their own, so that Ctrl-C reaches them through us only.

    Args:
        folder: of the job.
        further: the worker's standard input: a pipe where more jobs are to follow.
        job: what is to run, where that may be several ranks.
    """
    environment = {**_WORKER_ENVIRONMENT, **os.environ}
    words = [sys.executable, *_WORKER, str(folder)]
    if job is not None and job.ranks > 1:
        words = [sys.executable, "-m", "torch.distributed.run", *_torchrun_words(job), *_WORKER, str(folder)]
        environment.setdefault("OMP_NUM_THREADS", str(job.threads))
        further = subprocess.PIPE  # its end is how the ranks learn of our own
    with (folder / OUTPUT_FILE).open("wb") as output:
        return subprocess.Popen(
            words, stdin=further, stdout=output, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )


def _torchrun_words(job: JobFile) -> list[str]:
    each = ["--nproc-per-node", str(job.local_ranks)]
    if job.nodes.count == 1:
        return ["--standalone", *each]
    where = ["--master-addr", job.nodes.host, "--master-port", str(job.nodes.port)]
    return ["--nnodes", str(job.nodes.count), "--node-rank", str(job.nodes.number), *where, *each]


def stop_worker(worker: subprocess.Popen[bytes] | None) -> None:
    """Ask the worker, or all ranks, to end, then make them."""
    if worker is None or worker.poll() is not None:
        return
    with contextlib.suppress(psutil.Error):
        ranks = psutil.Process(worker.pid).children()
        for rank in ranks:
            rank.send_signal(signal.SIGINT)
        if not ranks:
            worker.send_signal(signal.SIGINT)
        psutil.wait_procs(ranks, timeout=_GRACE_S)
        for rank in ranks:
            with contextlib.suppress(psutil.NoSuchProcess):
                rank.kill()
    try:
        worker.wait(_GRACE_S)
    except subprocess.TimeoutExpired:
        worker.kill()
        worker.wait()


def how_it_ended(
    ends: Sequence[events.End | None], worker: subprocess.Popen[bytes] | None, output: str, first_rank: int = 0
) -> events.End:
    """Return the trial's end, from what each rank said last and from how their process ended.

    Of several ranks the first cause counts: one that was killed, then one that could not go on (out of memory,
    diverged …), then one that crashed by itself; a rank that lost its peers only says so.

    Args:
        ends: what each rank of this machine said, None where it did not come to it.
        worker: the process that was started.
        output: what it printed.
        first_rank: number of the first of these ranks.
    """
    if len(ends) == 1 and not _REPORTED.search(output):
        return ends[0] or events.End(outcome="crashed", reason=_last_words(worker, output))
    for rank, code in _REPORTED.findall(output):
        if int(code) < 0 and int(code) not in _TOGETHER:
            return events.End(outcome="crashed", reason=f"rank {rank} was {_killed(int(code))}")
    failed = [(rank, end) for rank, end in enumerate(ends, first_rank) if end is not None and end.outcome != "ok"]
    failed.sort(key=lambda one: (one[1].outcome == "crashed", bool(_OF_PEERS.search(one[1].reason)), one[0]))
    if failed:
        rank, end = failed[0]
        shared = all(other is not None and other.reason == end.reason for other in ends)
        reason = end.reason if shared else f"rank {rank}: {end.reason}"
        return events.End(outcome=end.outcome, reason=reason, traceback=end.traceback)
    if None in ends:
        reason = f"rank {first_rank + ends.index(None)} ended without a word: {_last_words(worker, output)}"
        return events.End(outcome="crashed", reason=reason)
    return events.End(outcome="ok")


def _last_words(worker: subprocess.Popen[bytes] | None, output: str) -> str:
    code = worker.returncode if worker else None
    if code is not None and code < 0:
        return f"the worker was {_killed(code)}"
    lines = output.strip().splitlines()
    return f"the worker ended with exit code {code}: {lines[-1] if lines else 'it said nothing'}"


def _killed(code: int) -> str:
    name = signal.Signals(-code).name
    why = " (the kernel sends it when the machine's memory runs out)" if name == "SIGKILL" else ""
    return f"killed by {name}{why}"
