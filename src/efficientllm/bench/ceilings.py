"""Calibration, once a machine: measured when it is not stored yet, then copied into every record."""

from __future__ import annotations

from pathlib import Path

import msgspec

from efficientllm.bench.digest import code_digest
from efficientllm.bench.job import JobFile
from efficientllm.bench.probe import probe_environment
from efficientllm.bench.quiet import wait_for_quiet
from efficientllm.bench.runner import ProgressCall, Run, run_trial
from efficientllm.devices._contract import Device
from efficientllm.errors import DeviceBusy
from efficientllm.records.environment import Environment
from efficientllm.records.measurement import Ceilings, Measurement
from efficientllm.records.model_settings import ModelSettings
from efficientllm.records.protocol import PROTOCOLS
from efficientllm.records.settings import CalibrateSettings
from efficientllm.records.trial import Trial, make_trial
from efficientllm.store.folder import Study

#: Calibrations are a study of their own, beside all others.
STUDY = "calibration"

#: How long a calibration waits for a neighbour to end.
PATIENCE_S = 30.0

#: A processor reaches its sustained rate sooner than a card under a power limit, and it has fewer formats.
_SETTINGS = {
    "cpu": CalibrateSettings(sustained_s=2.0),
    "cuda": CalibrateSettings(dtypes=("float32", "bfloat16", "float16")),
}
#: For `protocol: smoke`, which ranks nothing: a second or two.
_SMOKE = CalibrateSettings(dtypes=("float32",), burst_s=0.01, bursts=3, sustained_s=0.2)


def stored_calibration(results: Path, device: Device, threads: int) -> Measurement | None:
    """Return this machine's calibration if it is stored already, else None."""
    study, trial, environment = _place(results, device, threads, "standard")
    return study.done(trial.id, environment.id)


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
    patience_s: float = PATIENCE_S,
) -> Measurement:
    """Return this machine's calibration, measuring it if it is not stored or `again` is asked.

    Raises:
        DeviceBusy: somebody else is at work on the device, still after `patience_s`; nothing is stored. The smoke
            protocol, which ranks nothing, does not ask.
    """
    study, trial, environment = _place(results, device, threads, protocol)
    stored = None if again else study.done(trial.id, environment.id)
    if stored is not None and stored.outcome == "ok":
        return stored
    busy = "" if protocol == "smoke" else wait_for_quiet(device, patience_s)
    if busy:
        raise DeviceBusy(f"not calibrated: {busy}. Wait for it or end it, then run `efficientllm calibrate`.")
    attempt = study.next_attempt(trial.id, environment.id)
    measurement_id = f"{trial.id}-{environment.id}-{attempt}"
    job = JobFile(trial=trial, address=device.address, cache=str(results / ".cache"), threads=threads)
    measurement = run_trial(Run(job, device, environment, measurement_id), on_progress)
    study.write(measurement)
    return measurement


def _place(results: Path, device: Device, threads: int, protocol: str) -> tuple[Study, Trial, Environment]:
    """Return where a machine's calibration is stored, and under which trial and environment."""
    trial = calibration_trial(device.kind, protocol)
    environment = probe_environment(device, code_digest(trial.settings, device.kind), threads)
    return Study(results, STUDY), trial, environment


def ceilings_of(calibration: Measurement) -> Ceilings | None:
    """Return the ceilings that a calibration found, with its idle power and its id in them, or None where it failed."""
    if calibration.outcome != "ok" or calibration.ceilings is None:
        return None
    idle_power_w = calibration.figures.get("idle_power_w")
    return msgspec.structs.replace(calibration.ceilings, calibration=calibration.id, idle_power_w=idle_power_w)


def matmul_peak(ceilings: Ceilings | None, trial: Trial) -> float:
    """Return the peak in a trial's number format, FLOP/s; 0 where it is not known."""
    if ceilings is None or not isinstance(trial.settings, ModelSettings):
        return 0.0
    return ceilings.matmul_peak_flop_per_s.get(trial.settings.dtype, 0.0)
