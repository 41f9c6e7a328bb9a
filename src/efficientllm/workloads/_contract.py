"""What a workload is, and what it is given: a place to report windows, steps and figures to.

A workload knows the model and the text; it does not know who watches. The runner hands it a `Recorder`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from efficientllm.devices._contract import Device
from efficientllm.records.card import Card
from efficientllm.records.measurement import Ceilings, DataFacts, ModelFacts
from efficientllm.records.trial import Trial
from efficientllm.records.window import Work
from efficientllm.training.ranks import ALONE, Ranks


class OpenWindow(Protocol):
    """A window that is being measured."""

    def step(self) -> AbstractContextManager[None]:
        """Time what is inside as one step, from synchronised edge to synchronised edge."""
        ...

    def unfinished(self) -> bool:
        """Whether the protocol wants more steps: the interval is still too wide and time is left."""
        ...

    def value(self, name: str, unit: str, value: float) -> None:
        """Append to a series of the window, at the present time (`loss`, nats a token)."""
        ...

    def figure(self, name: str, value: float) -> None:
        """Set a single number of the window."""
        ...

    def absent(self, name: str, reason: str) -> None:
        """Say why a quantity of the window is not measured."""
        ...


class Recorder(Protocol):
    """Takes down what a workload does."""

    def phase(self, name: str) -> AbstractContextManager[None]:
        """Time a part of start-up or tear-down (`load`, `warmup` …)."""
        ...

    def warm_up(
        self,
        step: Callable[[], object],
        *,
        max_steps: int | None = None,
        after: Callable[[], object] | None = None,
    ) -> int:
        """Call `step` until step time is steady, as the protocol says; return how often it was called.

        `after` is called after each step, outside of its time.
        """
        ...

    def attempt(self, name: str, coordinates: dict[str, int]) -> AbstractContextManager[None]:
        """One point of a grid: running out of memory inside, or `Unsupported`, ends this point and not the trial."""
        ...

    def window(
        self, name: str, *, work: Work, coordinates: dict[str, int] | None = None, adaptive: bool = True
    ) -> AbstractContextManager[OpenWindow]:
        """Open a measured window."""
        ...

    def baseline_memory(self) -> None:
        """Note what the process holds now, before the model is built."""
        ...

    def watch(self, pid: int) -> None:
        """Have the meters watch one more process of the trial from now on, such as a server that it asks."""
        ...

    def progress(self, done: float, total: float, note: str = "") -> None:
        """Tell the person how far the trial is."""
        ...

    def model(self, facts: ModelFacts) -> None:
        """Set the model's counts."""
        ...

    def data(self, facts: DataFacts) -> None:
        """Set the text's identity."""
        ...

    def ceilings(self, ceilings: Ceilings) -> None:
        """Set what the device reaches at most."""
        ...

    def card(self, slot: str, card: Card) -> None:
        """Copy a technique's card into the record."""
        ...

    def figure(self, name: str, value: float) -> None:
        """Set a single number of the trial."""
        ...

    def absent(self, name: str, reason: str) -> None:
        """Say why a quantity is not measured anywhere in the trial."""
        ...

    def caution(self, code: str, text: str) -> None:
        """Tell the reader of something."""
        ...


@dataclass(frozen=True)
class Job:
    """All that a workload needs.

    Attributes:
        trial: what to do.
        environment: id of the environment, code included, that checkpoints belong to.
        checkpoints: folder of this trial's checkpoints in this environment, from which it goes on after it was
            stopped; None if it keeps none.
        device: where.
        recorder: whom to tell.
        artifact: folder for what this trial leaves (a checkpoint), or None if nobody takes it.
        parent_artifact: folder that the parent trial left, or None.
        cache: folder for token files and tokenizers, shared by all trials of all studies.
        threads: processor threads to use.
        matmul_peak_flop_per_s: as in `bench.job.JobFile`.
        ranks: which of the processes this is that run the trial together; each records what it sees.
    """

    trial: Trial
    environment: str
    checkpoints: Path | None
    device: Device
    recorder: Recorder
    artifact: Path | None
    parent_artifact: Path | None
    cache: Path
    threads: int
    matmul_peak_flop_per_s: float = 0.0
    ranks: Ranks = ALONE


@dataclass(frozen=True)
class WorkloadEntry:
    """A workload's entry: a title and the function that does it."""

    title: str
    run: Callable[[Job], None]
