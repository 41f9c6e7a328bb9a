"""The measured process: runs a trial and says what it does, as events in a file.

python -m efficientllm.bench.worker FOLDER      (the folder holds the job; events go there too)

Under a protocol that lets trials share a process, the folders of further jobs come on the standard input, one a line.
Started by torchrun it is one rank of several, which run one trial together and write each a file of their own.
"""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterable
from pathlib import Path

import msgspec

from efficientllm import registry
from efficientllm.bench.job import JOB_FILE, JobFile, events_file, ranks_of
from efficientllm.bench.protocol import idle_with_context
from efficientllm.devices._contract import Device
from efficientllm.devices.choose import open_device
from efficientllm.errors import EfficientLLMError, TrialEnd
from efficientllm.meters.marks import Marks
from efficientllm.records import events
from efficientllm.training.ranks import ALONE, Ranks, joined, ranks_here
from efficientllm.workloads._contract import Job, WorkloadEntry

#: How long a rank that failed waits for rank 0 to say the same.
_LAST_WORDS_S = 2.0


def main(first: Path, further: Iterable[str] = ()) -> None:
    """Run the job of a folder, then those that follow; whatever happens is said in the events, the exit code is 0."""
    _end_with_parent()
    if "LOCAL_RANK" in os.environ:
        _serve_as_rank(first)
        return
    outcome, device = serve(first)
    for line in further:
        if outcome == "interrupted":
            break
        _clear(device)
        outcome, device = serve(Path(line.rstrip("\n")))


def _serve_as_rank(folder: Path) -> None:
    """Run this rank's part of a trial; one that fails tells torchrun by its exit code, which then ends the others."""
    _end_with_input()
    rank, local_rank = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
    outcome, _ = serve(folder, local_rank, rank)
    if outcome == "ok":
        return
    end_s = time.perf_counter() + _LAST_WORDS_S
    while rank and not _has_ended(folder / events_file(0)) and time.perf_counter() < end_s:
        time.sleep(0.05)  # most ends come to all ranks at once, and rank 0 speaks for the trial
    os._exit(1)  # a group that has lost a member cannot be left in order


def _has_ended(file: Path) -> bool:
    return file.exists() and any(isinstance(e, events.End) for e in events.decode_events(file.read_bytes())[0])


def serve(folder: Path, local_rank: int = 0, rank: int = 0) -> tuple[str, Device]:
    """Run the job of a folder and say how it ended, in its events."""
    job_file = msgspec.json.decode((folder / JOB_FILE).read_bytes(), type=JobFile)
    device = open_device(job_file.trial.device, job_file.address_of(local_rank))
    marks = Marks(folder / events_file(rank), device, job_file.trial.protocol, alone=job_file.ranks == 1)
    marks.say(events.Begun(pid=os.getpid()))
    marks.flush()
    end = run_job(job_file, marks, device)
    marks.say(end)
    marks.close()
    return end.outcome, device


def _clear(device: Device) -> None:
    """Give up what the job before has left, as far as a process can: its memory and its compiled code."""
    gc.collect()
    if "torch._dynamo" in sys.modules:
        sys.modules["torch._dynamo"].reset()
    if "torch" in sys.modules:
        device.empty_cache()


def run_job(job_file: JobFile, marks: Marks, device: Device) -> events.End:
    """Run a workload and turn however it ends into an outcome with its reason."""
    try:
        with marks.phase("import"):
            import torch

            torch.set_num_threads(job_file.threads)
            entry: WorkloadEntry = registry.load("workload", job_file.trial.settings_workload())
        ranks = ranks_here(ranks_of(job_file.trial))
        if job_file.local_ranks > len(set(job_file.addresses)) > 0:
            text = f"{job_file.local_ranks} ranks share one device: what they take together is measured, not a speed-up"
            marks.caution("shared_device", text)
        marks.agree = ranks.agree
        with joined(ranks, device):
            idle_with_context(device, job_file.trial.protocol, marks)
            entry.run(_job(job_file, marks, device, ranks))
    except KeyboardInterrupt:
        return events.End(outcome="interrupted", reason="interrupted by the user")
    except TrialEnd as end:
        return events.End(outcome=end.outcome, reason=str(end))
    except EfficientLLMError as error:
        return events.End(outcome="crashed", reason=str(error))
    except Exception as error:  # noqa: BLE001 - the boundary of the trial: every failure becomes a stored outcome
        outcome = "oom" if device.is_out_of_memory(error) else "crashed"
        return events.End(outcome=outcome, reason=_reason(error), traceback=traceback.format_exc()[-8000:])
    return events.End(outcome="ok")


def _job(job_file: JobFile, marks: Marks, device: Device, ranks: Ranks = ALONE) -> Job:
    return Job(
        trial=job_file.trial,
        environment=job_file.environment,
        checkpoints=Path(job_file.checkpoints) if job_file.checkpoints else None,
        device=device,
        recorder=marks,
        cache=Path(job_file.cache),
        threads=job_file.threads,
        ranks=ranks,
        artifact=Path(job_file.artifact) if job_file.artifact else None,
        parent_artifact=Path(job_file.parent_artifact) if job_file.parent_artifact else None,
        matmul_peak_flop_per_s=job_file.matmul_peak_flop_per_s,
    )


def _reason(error: Exception) -> str:
    last = traceback.extract_tb(error.__traceback__)[-1]
    text = str(error).strip()
    first = text.splitlines()[0] if text else "no message"
    return f"{type(error).__name__}: {first} ({Path(last.filename).name}:{last.lineno})"


def _end_with_parent() -> None:
    """End this process soon after the runner has gone, however it went: nobody would read what it measures."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _end_with_input() -> None:
    """End this rank when the runner has gone, which torchrun would not notice: it holds the other end of the input."""

    def listen() -> None:
        with open(0, "rb", buffering=0, closefd=False) as pipe:
            while pipe.read(1):
                pass
        os._exit(1)

    threading.Thread(target=listen, daemon=True).start()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.stdin)
