"""A worker that serves several trials, one after another, where the protocol lets them share a process.

Starting a process and importing what a model needs costs some 15 s on a card, which is most of a smoke trial. Each
trial still has a sampler, a file of events and a record of its own; what ends a process ends the trial in it, and the
next one starts anew.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType

from efficientllm.bench.job import OUTPUT_FILE
from efficientllm.bench.launch import start_worker
from efficientllm.bench.runner import ProgressCall, Run, run_trial
from efficientllm.records.measurement import Measurement

#: How long a worker may take to leave once its input has ended.
_LEAVE_S = 5.0

#: What leaves a process in an order in which another trial may begin. A crash may leave a device's context broken.
_GOES_ON = ("ok", "oom", "unsupported", "diverged", "invalid")


class Workers:
    """Runs trials: those that may share a process in one that lives on, the others each in its own."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._output = Path()
        self._scratch = TemporaryDirectory(prefix="efficientllm-batch-")

    def run_trial(self, run: Run, on_progress: ProgressCall) -> Measurement:
        """Run a trial as its protocol says; arguments and errors as of `bench.runner.run_trial`."""
        if not run.job.trial.protocol.shared_process or run.job.ranks > 1:
            return run_trial(run, on_progress)
        goes_on = False
        try:
            measurement = run_trial(run, on_progress, self._start)
            goes_on = measurement.outcome in _GOES_ON
        finally:
            if not goes_on:
                self.close()
        return measurement

    def close(self) -> None:
        """End the process that lives on, if there is one."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        try:
            process.stdin.close()
            process.wait(_LEAVE_S)
        except (BrokenPipeError, subprocess.TimeoutExpired):
            process.kill()
            process.wait()

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        self._scratch.cleanup()

    def _start(self, folder: Path) -> subprocess.Popen[bytes]:
        """Bring a job's folder to the process that lives, or to a new one where there is none."""
        output = folder / OUTPUT_FILE
        process = self._process
        if process is not None and self._hand_over(process, folder):
            # what the process prints goes where its first job wanted it: there the reason of a crash is looked for
            output.symlink_to(self._output)
            return process
        self._process = process = start_worker(folder, subprocess.PIPE)
        self._output = Path(self._scratch.name, f"{process.pid}.txt")
        self._output.hardlink_to(output)  # the first job's folder goes, the file stays
        return process

    @staticmethod
    def _hand_over(process: subprocess.Popen[bytes], folder: Path) -> bool:
        """Tell a process of its next job; False if it has gone."""
        assert process.stdin is not None
        try:
            process.stdin.write(f"{folder}\n".encode())
            process.stdin.flush()
        except BrokenPipeError:
            return False
        return process.poll() is None
