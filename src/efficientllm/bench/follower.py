"""A machine that has joined another's study: it starts its ranks of each trial, and ends when the first has gone."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec

from efficientllm.bench.job import JOB_FILE, OUTPUT_FILE, JobFile, events_file
from efficientllm.bench.launch import how_it_ended, start_worker, stop_worker
from efficientllm.bench.nodes import Connection, Ended, PeerGone, Start, Stop
from efficientllm.devices._contract import Device
from efficientllm.records import events

_LOOK_S = 0.1


def follow(first: Connection, device: Device, cache: Path, say: Callable[[str], None]) -> str:
    """Do the first machine's jobs until it has no more; return why it ended.

    Args:
        first: the connection to it.
        device: the first of this machine's devices.
        cache: folder of token files and tokenizers, which each machine makes for itself.
        say: is told of each trial.
    """
    try:
        while True:
            message = first.receive(60.0)
            if isinstance(message, Start):
                say(f"{message.job.trial.stage} {message.job.trial.technique()} #{message.job.trial.repeat + 1}")
                if _one(first, message.job, device, cache):
                    return "the study is over"
            elif isinstance(message, Stop) and message.study:
                return "the study is over"
            elif isinstance(message, Stop):
                first.send(Stop())
    except PeerGone as gone:
        return f"the first node has gone: {gone}"


def _one(first: Connection, job: JobFile, device: Device, cache: Path) -> bool:
    """Run this machine's ranks of a trial; return whether the study is over."""
    addresses = tuple(one.address for one in device.group(job.local_ranks))
    job = msgspec.structs.replace(job, address=device.address, addresses=addresses, cache=str(cache))
    with tempfile.TemporaryDirectory(prefix="efficientllm-") as scratch:
        folder = Path(scratch)
        (folder / JOB_FILE).write_bytes(msgspec.json.encode(job))
        worker = start_worker(folder, job=job)
        try:
            return _until_stopped(first, job, folder, worker)
        finally:
            stop_worker(worker)


def _until_stopped(first: Connection, job: JobFile, folder: Path, worker: subprocess.Popen[bytes]) -> bool:
    told = False
    while True:
        message = first.receive(_LOOK_S)
        if isinstance(message, Stop):
            stop_worker(worker)
            if not message.study:
                first.send(Stop())
            return message.study
        if worker.poll() is not None and not told:
            end, told = _end(job, folder, worker), True
            first.send(Ended(outcome=end.outcome, reason=end.reason))


def _end(job: JobFile, folder: Path, worker: subprocess.Popen[bytes]) -> events.End:
    first_rank = job.nodes.number * job.local_ranks
    ends = []
    for rank in range(first_rank, first_rank + job.local_ranks):
        file = folder / events_file(rank)
        said = events.decode_events(file.read_bytes())[0] if file.exists() else []
        ends.append(next((event for event in said if isinstance(event, events.End)), None))
    return how_it_ended(ends, worker, (folder / OUTPUT_FILE).read_text(errors="replace"), first_rank)
