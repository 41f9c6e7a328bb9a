"""Calibration: what the device reaches at most, once an environment."""

from __future__ import annotations

from efficientllm.devices.calibrate import measure_ceilings
from efficientllm.records.settings import CalibrateSettings
from efficientllm.records.window import Work
from efficientllm.workloads._contract import Job, WorkloadEntry


def run(job: Job) -> None:
    """Measure the ceilings and say them; what lies behind them goes into the trial's figures."""
    settings = job.trial.settings
    assert isinstance(settings, CalibrateSettings)
    device = job.device
    with job.recorder.window("calibrate", work=Work(), adaptive=False):
        found = measure_ceilings(device, settings, job.recorder.progress)
    job.recorder.ceilings(found.ceilings)
    for name, value in found.figures.items():
        job.recorder.figure(name, value)
    for name, reason in found.absent.items():
        job.recorder.absent(name, reason)


ENTRY = WorkloadEntry(title="The ceilings of this device", run=run)
