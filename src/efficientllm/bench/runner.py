"""Runs one trial: a fresh worker inside meters, and what they saw as one measurement.

    runner    sampler starts ── rest, idle ── worker starts ···················· worker ends ── sampler stops
    worker                                    import │ load │ warm-up │ window │ … │ quality │ end
    sampler   ·  ·  ·  ·  ·  ·  ·  ·  ·  ·  ·  ·  ·  ·  ·  ·  ·  ·  ·  ·  ·  ·  ·  ·  ·  ·

This is the one place where workloads and meters meet.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

import efficientllm
from efficientllm.bench.assemble import Told, idle_figures, sort_out, start_figures, windows
from efficientllm.bench.job import EVENTS_FILE, JOB_FILE, OUTPUT_FILE, JobFile
from efficientllm.bench.protocol import Rest, settle
from efficientllm.devices._contract import Device
from efficientllm.meters.external import WallClock, with_external
from efficientllm.meters.process import SamplerProcess
from efficientllm.meters.samples import Samples
from efficientllm.records import events
from efficientllm.records.environment import Environment
from efficientllm.records.measurement import Ceilings, Measurement
from efficientllm.records.window import Caution

#: What a worker finds in its environment, unless the user has set it. The spin count bounds how long OpenMP's threads
#: wait awake for one another: without a bound one busy neighbour on a shared core makes a step 30 times longer
#: (2.9 s for 0.08 s, measured on two cores), with this one 3 times; on a quiet machine it costs a fifth of a tiny step.
_WORKER_ENVIRONMENT = {"TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1", "GOMP_SPINCOUNT": "10000"}

_POLL_S = 0.05
_GRACE_S = 5.0

ProgressCall = Callable[[events.Progress], None]
#: Brings a job's folder to a worker and returns its process.
StartCall = Callable[[Path], "subprocess.Popen[bytes]"]


class TrialInterrupted(Exception):
    """The user stopped the trial; what it had said until then is in `measurement`."""

    def __init__(self, measurement: Measurement) -> None:
        super().__init__("interrupted")
        self.measurement = measurement


@dataclass(frozen=True)
class Run:
    """All that one run of a trial needs beside the job; `external` is a wall or BMC meter's file."""

    job: JobFile
    device: Device
    environment: Environment
    measurement_id: str
    ceilings: Ceilings | None = None
    external: Path | None = None


def run_trial(run: Run, on_progress: ProgressCall = lambda _: None, start: StartCall | None = None) -> Measurement:
    """Run a trial in a process of its own and return what was seen; judging and storing are the caller's.

    Args:
        run: what to run.
        on_progress: is told how far the trial is.
        start: brings the job to a process that lives on (see `bench.batch`), in place of one of its own.

    Raises:
        TrialInterrupted: Ctrl-C; carries the measurement with outcome `interrupted`.
    """
    with tempfile.TemporaryDirectory(prefix="efficientllm-") as scratch:
        folder = Path(scratch)
        (folder / JOB_FILE).write_bytes(msgspec.json.encode(run.job))
        return _run_in(folder, run, on_progress, start)


def _run_in(folder: Path, run: Run, on_progress: ProgressCall, start: StartCall | None) -> Measurement:
    begin = WallClock.now()
    protocol = run.job.trial.protocol
    sampler = SamplerProcess.start(run.device, [], interval_s=protocol.sample_interval_s, path=folder / "samples.txt")
    interrupted = False
    worker: subprocess.Popen[bytes] | None = None
    start_s = time.perf_counter()
    rest = Rest(start_s, start_s)
    try:
        rest = settle(run.device, protocol)
        start_s = time.perf_counter()
        worker = (start or start_worker)(folder)
        sampler.add_pid(worker.pid)
        _follow(worker, folder / EVENTS_FILE, on_progress, until_exit=start is None)
    except KeyboardInterrupt:
        interrupted = True
        _stop(worker)
    last_s = time.perf_counter()
    samples = with_external(sampler.stop(), run.external, begin)
    told = sort_out(events.decode_events(_read(folder / EVENTS_FILE))[0])
    outcome, reason = _outcome(told, worker, interrupted, folder)
    measurement = _measurement(run, told, samples, start_s, last_s, outcome, reason, begin, rest)
    if interrupted:
        raise TrialInterrupted(measurement)
    return measurement


def _sampler_cost(samples: Samples) -> dict[str, float]:
    """Return what watching cost: the sampler's processor seconds and how long it ran."""
    cost = {"sampler_elapsed_s": samples.elapsed_s}
    return cost if samples.processor_s is None else {**cost, "sampler_processor_s": samples.processor_s}


def start_worker(folder: Path, further: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
    """Start the measured process in a session of its own, so that Ctrl-C reaches it through us only.

    `further` is its standard input: a pipe where more jobs are to follow.
    """
    environment = {**_WORKER_ENVIRONMENT, **os.environ}
    output = (folder / OUTPUT_FILE).open("wb")
    with output:
        return subprocess.Popen(
            [sys.executable, "-m", "efficientllm.bench.worker", str(folder)],
            stdin=further,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )


def _follow(worker: subprocess.Popen[bytes], file: Path, on_progress: ProgressCall, *, until_exit: bool) -> None:
    """Wait for the worker to end, or for the end of this job where the worker lives on, and pass on its progress."""
    taken, ended = 0, False
    while worker.poll() is None and (until_exit or not ended):
        time.sleep(_POLL_S)
        said, size = events.decode_events(_read(file, taken))
        taken += size
        for event in said:
            if isinstance(event, events.Progress):
                on_progress(event)
            ended = ended or isinstance(event, events.End)


def _stop(worker: subprocess.Popen[bytes] | None) -> None:
    """Ask the worker to end, then make it."""
    if worker is None or worker.poll() is not None:
        return
    worker.send_signal(signal.SIGINT)
    try:
        worker.wait(_GRACE_S)
    except subprocess.TimeoutExpired:
        worker.kill()
        worker.wait()


def _read(file: Path, offset: int = 0) -> bytes:
    try:
        with file.open("rb") as stream:
            stream.seek(offset)
            return stream.read()
    except FileNotFoundError:  # the worker has not begun to speak
        return b""


def _outcome(told: Told, worker: subprocess.Popen[bytes] | None, interrupted: bool, folder: Path) -> tuple[str, str]:
    if interrupted:
        return "interrupted", "interrupted by the user"
    if told.end is not None:
        return told.end.outcome, told.end.reason
    code = worker.returncode if worker else None
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        why = " (the kernel sends it when the machine's memory runs out)" if name == "SIGKILL" else ""
        return "crashed", f"the worker was killed by {name}{why}"
    lines = _read(folder / OUTPUT_FILE).decode(errors="replace").strip().splitlines()
    return "crashed", f"the worker ended with exit code {code}: {lines[-1] if lines else 'it said nothing'}"


def _measurement(
    run: Run,
    told: Told,
    samples: Samples,
    start_s: float,
    last_s: float,
    outcome: str,
    reason: str,
    begin: WallClock,
    rest: Rest,
) -> Measurement:
    idle = idle_figures(samples, rest.begin_s, rest.end_s)
    seen = windows(told, samples, start_s, last_s, idle)
    cautions = told.cautions
    if told.end is not None and told.end.traceback:
        cautions = (Caution(code="traceback", text=told.end.traceback), *cautions)
    return Measurement(
        id=run.measurement_id,
        trial=run.job.trial,
        environment=run.environment,
        outcome=outcome,
        reason=reason,
        started_at=begin.text(),
        software_version=efficientllm.__version__,
        windows=seen,
        model=told.model,
        data=told.data,
        ceilings=told.ceilings or run.ceilings,
        cards=told.cards,
        phases_s={"cool_down": rest.cool_down_s, **told.phases_s},
        figures={**told.figures.get(-1, {}), **idle, **start_figures(seen), **_sampler_cost(samples)},
        absent={**samples.absent, **told.missing.get(-1, {})},
        cautions=cautions,
    )
