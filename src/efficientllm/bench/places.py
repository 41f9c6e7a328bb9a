"""Where a trial runs: the devices of this machine, and of those that have joined it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from efficientllm.bench.job import ranks_of
from efficientllm.bench.nodes import FirstNode
from efficientllm.devices._contract import Device
from efficientllm.errors import Unsupported
from efficientllm.records.environment import DeviceInfo
from efficientllm.records.trial import Trial


@dataclass(frozen=True)
class Places:
    """What a study can run on.

    Attributes:
        device: the first device of this machine.
        nodes: the other machines; they take part in trials of several ranks.
    """

    device: Device
    nodes: FirstNode | None = None

    def local_ranks(self, trial: Trial) -> int:
        """Return how many of a trial's ranks run on this machine."""
        ranks = ranks_of(trial)
        return ranks if self.nodes is None or ranks == 1 else max(1, ranks // self.nodes.count)

    def devices(self, trial: Trial) -> tuple[Device, ...]:
        """Return this machine's devices that a trial runs on.

        Raises:
            Unsupported: there are fewer than it wants.
        """
        return self.device.group(self.local_ranks(trial))

    def addresses(self, trial: Trial) -> tuple[str, ...]:
        """Return the device of each rank on this machine; empty where there is one rank in all."""
        return tuple(device.address for device in self.devices(trial)) if ranks_of(trial) > 1 else ()

    def others(self, trial: Trial) -> list[DeviceInfo]:
        """Return what a trial runs on beside this machine's first device; nothing of a trial that cannot run."""
        if self.refused([trial]):
            return []
        here = [device.info() for device in self.devices(trial)[1:]]
        return here + (self.nodes.devices_of(trial) if self.nodes is not None else [])

    def refused(self, trials: Sequence[Trial]) -> dict[str, str]:
        """Return trial -> reason for the trials that want more devices than there are, here or elsewhere."""
        reasons = {}
        for trial in trials:
            reason = "" if self.nodes is None else self.nodes.reason_against(trial)
            try:
                self.devices(trial)
            except Unsupported as refusal:
                reason = reason or str(refusal)
            if reason:
                reasons[trial.id] = reason
        return reasons
