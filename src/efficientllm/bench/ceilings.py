"""Calibration, once a machine: measured when it is not stored yet, then copied into every record."""

from __future__ import annotations

from pathlib import Path

import msgspec

from efficientllm.bench.digest import code_digest
from efficientllm.bench.job import JobFile
from efficientllm.bench.probe import probe_environment
from efficientllm.bench.runner import ProgressCall, Run, run_trial
from efficientllm.devices._contract import Device
from efficientllm.records.measurement import Ceilings, Measurement
from efficientllm.records.protocol import PROTOCOLS
from efficientllm.records.settings import CalibrateSettings
from efficientllm.records.trial import Trial, make_trial
from efficientllm.store.folder import Study

#: Calibrations are a study of their own, beside all others.
STUDY = "calibration"

#: A processor reaches its sustained rate sooner than a card under a power limit, and it has fewer formats.
_SETTINGS = {
    "cpu": CalibrateSettings(sustained_s=2.0),
    "cuda": CalibrateSettings(dtypes=("float32", "bfloat16", "float16")),
}
#: For `protocol: smoke`, which ranks nothing: a second or two.
_SMOKE = CalibrateSettings(dtypes=("float32",), burst_s=0.01, bursts=3, sustained_s=0.2)


def calibration_trial(device: str, protocol: str = "standard") -> Trial:
    """Return the trial that calibrates a kind of device, as carefully as the protocol asks."""
    return make_trial(
        settings=_SMOKE if protocol == "smoke" else _SETTINGS.get(device, CalibrateSettings()),
        protocol=PROTOCOLS[protocol],
        device=device,
        seed=0,
        repeat=0,
        stage="calibrate",
    )


def calibrate(
    results: Path,
    device: Device,
    threads: int,
    on_progress: ProgressCall,
    *,
    protocol: str = "standard",
    again: bool = False,
) -> Measurement:
    """Return this machine's calibration, measuring it if it is not stored or `again` is asked."""
    study, trial = Study(results, STUDY), calibration_trial(device.kind, protocol)
    environment = probe_environment(device, code_digest(trial.settings, device.kind), threads)
    stored = None if again else study.done(trial.id, environment.id)
    if stored is not None and stored.outcome == "ok":
        return stored
    attempt = study.next_attempt(trial.id, environment.id)
    measurement_id = f"{trial.id}-{environment.id}-{attempt}"
    job = JobFile(trial=trial, address=device.address, cache=str(results / ".cache"), threads=threads)
    measurement = run_trial(Run(job, device, environment, measurement_id), on_progress)
    study.write(measurement)
    return measurement


def ceilings_of(calibration: Measurement) -> Ceilings | None:
    """Return the ceilings that a calibration found, with its id in them, or None where it failed."""
    if calibration.outcome != "ok" or calibration.ceilings is None:
        return None
    return msgspec.structs.replace(calibration.ceilings, calibration=calibration.id)
