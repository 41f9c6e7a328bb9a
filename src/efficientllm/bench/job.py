"""What the runner hands to a worker, as a file."""

from __future__ import annotations

import msgspec

from efficientllm.records.trial import Trial

JOB_FILE = "job.json"
EVENTS_FILE = "events.jsonl"
OUTPUT_FILE = "output.txt"


class JobFile(msgspec.Struct, frozen=True, kw_only=True):
    """One trial, where it runs, and the folders around it; empty where there is none.

    Attributes:
        environment: id of the environment that the trial runs in.
        checkpoints: folder of what the trial goes on from; empty if it keeps nothing.
        address: which device of the trial's kind, as `Device.address` says it.
        matmul_peak_flop_per_s: the device's calibrated peak in the trial's number format, for the progress that a
            person sees; 0 if it is not known.
    """

    trial: Trial
    environment: str = ""
    checkpoints: str = ""
    address: str = ""
    cache: str
    threads: int
    artifact: str = ""
    parent_artifact: str = ""
    matmul_peak_flop_per_s: float = 0.0
