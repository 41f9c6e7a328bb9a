"""Runs one trial: a fresh worker inside meters, and what they saw as one measurement.

    runner    sampler starts ── rest, idle ── worker starts ···················· worker ends ── sampler stops
    worker                                    import │ load │ warm-up │ window │ … │ quality │ end
    sampler   ·  ·  ·  ·  ·  ·  ·  ·  ·  ·  ·  ·  ·  ·  ·  ·  ·  ·  ·  ·  ·  ·  ·  ·  ·  ·

This is the one place where workloads and meters meet.
"""

from __future__ import annotations

import contextlib
import functools
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

import efficientllm
from efficientllm.bench.assemble import Told, idle_figures, sort_out, start_figures, windows
from efficientllm.bench.job import JOB_FILE, OUTPUT_FILE, JobFile, events_file
from efficientllm.bench.launch import how_it_ended, start_worker, stop_worker
from efficientllm.bench.nodes import Ended, FirstNode
from efficientllm.bench.protocol import Rest, settle
from efficientllm.bench.voices import of_first_node, told_by_all
from efficientllm.devices._contract import Device
from efficientllm.meters.external import WallClock, with_external
from efficientllm.meters.process import SamplerProcess
from efficientllm.meters.samples import Samples
from efficientllm.meters.together import together
from efficientllm.records import events
from efficientllm.records.environment import Environment
from efficientllm.records.measurement import Ceilings, Measurement
from efficientllm.records.window import Caution

_POLL_S = 0.05
#: How long ranks that lost their peers wait for the news of why.
_NEWS_S = 3.0

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
    """All that one run of a trial needs beside the job.

    Attributes:
        external: a wall or BMC meter's file.
        others: further devices of this machine that the trial runs on, one for each further rank.
        nodes: the other machines that take part in it, if any do.
    """

    job: JobFile
    device: Device
    environment: Environment
    measurement_id: str
    ceilings: Ceilings | None = None
    external: Path | None = None
    others: tuple[Device, ...] = ()
    nodes: FirstNode | None = None

    @property
    def devices(self) -> tuple[Device, ...]:
        """All devices of this machine that the trial runs on."""
        return (self.device, *self.others)


def run_trial(run: Run, on_progress: ProgressCall = lambda _: None, start: StartCall | None = None) -> Measurement:
    """Run a trial in a process of its own and return what was seen; judging and storing are the caller's.

    Args:
        run: what to run.
        on_progress: is told how far the trial is.
        start: brings the job to a process that lives on (see `bench.batch`), in place of one of its own.

    Raises:
        TrialInterrupted: Ctrl-C; carries the measurement with outcome `interrupted`.
    """
    with tempfile.TemporaryDirectory(prefix="efficientllm-") as scratch, contextlib.ExitStack() as stack:
        folder = Path(scratch)
        if run.nodes is not None and run.job.ranks > 1:
            stack.callback(run.nodes.finish)
            run = replace(run, job=run.nodes.start(run.job))
        (folder / JOB_FILE).write_bytes(msgspec.json.encode(run.job))
        return _run_in(folder, run, on_progress, start)


def _run_in(folder: Path, run: Run, on_progress: ProgressCall, start: StartCall | None) -> Measurement:
    begin = WallClock.now()
    protocol = run.job.trial.protocol
    interrupted, lost = False, None
    worker: subprocess.Popen[bytes] | None = None
    start_s = time.perf_counter()
    rest = Rest(start_s, start_s)
    with contextlib.ExitStack() as stack:
        samplers = [
            stack.enter_context(
                SamplerProcess.start(
                    device,
                    [],
                    interval_s=protocol.sample_interval_s,
                    path=folder / f"samples.{number}.txt",
                    rank=number,
                    index=number,
                )
            )
            for number, device in enumerate(run.devices)
        ]
        try:
            rest = settle(run.devices, protocol)
            start_s = time.perf_counter()
            worker = (start or functools.partial(start_worker, job=run.job))(folder)
            lost = _follow(worker, folder, run, samplers, on_progress, until_exit=start is None)
        except KeyboardInterrupt:
            interrupted = True
            stop_worker(worker)
        last_s = time.perf_counter()
        samples = [sampler.stop() for sampler in samplers]
    samples[0] = with_external(samples[0], run.external, begin)
    voices = [sort_out(_said(folder, rank)) for rank in range(run.job.local_ranks)]
    output = _read(folder / OUTPUT_FILE).decode(errors="replace")
    end = how_it_ended([told.end for told in voices], worker, output)
    if interrupted:
        end = events.End(outcome="interrupted", reason="interrupted by the user")
    elif run.nodes is not None and run.job.ranks > 1:
        end = _with_news(end, lost, run.nodes)
    told = told_by_all(voices, shared=len(run.devices) == 1)
    measurement = _measurement(run, told, samples, start_s, last_s, end, begin, rest)
    if interrupted:
        raise TrialInterrupted(measurement)
    return measurement


def _sampler_cost(samples: Sequence[Samples]) -> dict[str, float]:
    """Return what watching cost: the samplers' processor seconds and how long they ran."""
    cost = {"sampler_elapsed_s": max(one.elapsed_s for one in samples)}
    used = [one.processor_s for one in samples if one.processor_s is not None]
    return {**cost, "sampler_processor_s": sum(used)} if len(used) == len(samples) else cost


def _follow(
    worker: subprocess.Popen[bytes],
    folder: Path,
    run: Run,
    samplers: Sequence[SamplerProcess],
    on_progress: ProgressCall,
    *,
    until_exit: bool,
) -> Ended | None:
    """Wait for the worker to end, or for the end of this job where the worker lives on, and pass on its progress.

    Every rank says its process in the beginning, and is watched from then on; the rest of what the others say is read
    in the end. Where another machine fails, the ranks here are ended, and what happened there is returned.
    """
    taken, ended = 0, False
    silent = set(range(1, run.job.local_ranks))
    if run.job.ranks == 1:
        _watch(samplers, worker.pid)
    while worker.poll() is None and (until_exit or not ended):
        time.sleep(_POLL_S)
        lost = run.nodes.failure() if run.nodes is not None and run.job.ranks > 1 else None
        if lost is not None:
            stop_worker(worker)
            return lost
        said, size = events.decode_events(_read(folder / events_file(0), taken))
        taken += size
        for event in said:
            if isinstance(event, events.Progress):
                on_progress(event)
            elif isinstance(event, events.Begun):
                _watch(samplers, event.pid)
            ended = ended or isinstance(event, events.End)
        for rank in tuple(silent):
            pids = [event.pid for event in _said(folder, rank) if isinstance(event, events.Begun)]
            for pid in pids:
                _watch(samplers, pid)
            silent -= {rank} if pids else set()
    return None


def _with_news(end: events.End, lost: Ended | None, nodes: FirstNode) -> events.End:
    """Return what came first: what failed on another machine, or how the ranks here ended by themselves.

    Ranks that lost their peers crash, and those that we ended for a failure elsewhere say that they were interrupted.
    """
    if lost is None and end.outcome == "crashed":
        lost = nodes.failure(wait_s=_NEWS_S)
    if lost is None or end.outcome not in ("crashed", "interrupted", "ok"):
        return end
    return events.End(outcome=lost.outcome, reason=lost.reason)


def _watch(samplers: Sequence[SamplerProcess], pid: int) -> None:
    for sampler in samplers:
        sampler.add_pid(pid)


def _said(folder: Path, rank: int) -> list[events.AnyEvent]:
    return events.decode_events(_read(folder / events_file(rank)))[0]


def _read(file: Path, offset: int = 0) -> bytes:
    try:
        with file.open("rb") as stream:
            stream.seek(offset)
            return stream.read()
    except FileNotFoundError:  # the worker has not begun to speak
        return b""


def _measurement(
    run: Run,
    told: Told,
    samples: Sequence[Samples],
    start_s: float,
    last_s: float,
    end: events.End,
    begin: WallClock,
    rest: Rest,
) -> Measurement:
    idle = idle_figures(samples, rest.begin_s, rest.end_s)
    idle_of_each = [idle_figures([one], rest.begin_s, rest.end_s) for one in samples]
    seen = windows(told, samples, start_s, last_s, idle_of_each)
    if run.job.nodes.count > 1:
        seen, idle = tuple(of_first_node(window) for window in seen), {}
    cautions = told.cautions
    if end.traceback:
        cautions = (Caution(code="traceback", text=end.traceback), *cautions)
    missing = together([{}] * len(samples), [one.absent for one in samples])[1]
    return Measurement(
        id=run.measurement_id,
        trial=run.job.trial,
        environment=run.environment,
        outcome=end.outcome,
        reason=end.reason,
        started_at=begin.text(),
        software_version=efficientllm.__version__,
        windows=seen,
        model=told.model,
        data=told.data,
        ceilings=told.ceilings or run.ceilings,
        cards=told.cards,
        phases_s={"cool_down": rest.cool_down_s, **told.phases_s},
        figures={**told.figures.get(-1, {}), **idle, **start_figures(seen), **_sampler_cost(samples)},
        absent={**missing, **told.missing.get(-1, {})},
        cautions=cautions,
    )
