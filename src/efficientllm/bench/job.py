"""What the runner hands to a worker, as a file."""

from __future__ import annotations

import msgspec

from efficientllm.records.trial import Trial

JOB_FILE = "job.json"
EVENTS_FILE = "events.jsonl"
OUTPUT_FILE = "output.txt"


class Nodes(msgspec.Struct, frozen=True, kw_only=True):
    """Which machine this is of those that run a trial together.

    Attributes:
        number: from 0; the first is where the study runs.
        count: how many there are.
        host, port: where its ranks meet, on the first machine.
    """

    number: int = 0
    count: int = 1
    host: str = ""
    port: int = 0


class JobFile(msgspec.Struct, frozen=True, kw_only=True):
    """One trial, where it runs, and the folders around it; empty where there is none.

    Attributes:
        environment: id of the environment that the trial runs in.
        checkpoints: folder of what the trial goes on from; empty if it keeps nothing.
        address: which device of the trial's kind, as `Device.address` says it.
        matmul_peak_flop_per_s: the device's calibrated peak in the trial's number format, for the progress that a
            person sees; 0 if it is not known.
        addresses: of several ranks, the device of each that runs on this machine; one that all of them share.
        threads: processor threads of a worker, which is one rank.
    """

    trial: Trial
    environment: str = ""
    checkpoints: str = ""
    address: str = ""
    addresses: tuple[str, ...] = ()
    nodes: Nodes = Nodes()
    cache: str
    threads: int
    artifact: str = ""
    parent_artifact: str = ""
    matmul_peak_flop_per_s: float = 0.0

    @property
    def ranks(self) -> int:
        """Processes that run the trial together, on all machines."""
        return ranks_of(self.trial)

    @property
    def local_ranks(self) -> int:
        """Those of them that run on this machine."""
        return self.ranks // self.nodes.count

    def address_of(self, local_rank: int) -> str:
        """Return the device of one of this machine's ranks."""
        return self.addresses[local_rank % len(self.addresses)] if self.addresses else self.address


def ranks_of(trial: Trial) -> int:
    """Return how many processes run a trial together."""
    ranks: int = getattr(trial.settings, "ranks", 1)
    return ranks


def events_file(rank: int) -> str:
    """Return the name of the file in which a rank says what it does.

    >>> events_file(0), events_file(1)
    ('events.jsonl', 'events.1.jsonl')
    """
    return EVENTS_FILE if rank == 0 else f"events.{rank}.jsonl"
