"""What a worker says while it runs, one event a line, so that a killed worker leaves all it had said.

Times are of the worker's `time.perf_counter()`, which one machine's processes share; the reader subtracts the start.
"""

from __future__ import annotations

import msgspec

from efficientllm.records.card import Card
from efficientllm.records.measurement import Ceilings, DataFacts, ModelFacts
from efficientllm.records.window import Caution, Work


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag=str.lower):
    """The root of all events."""


class Phase(Event, frozen=True, kw_only=True):
    """A part of start-up or tear-down has taken so long."""

    name: str
    elapsed_s: float


class Begun(Event, frozen=True, kw_only=True):
    """A process of the trial is there, and is to be watched."""

    pid: int


class Facts(Event, frozen=True, kw_only=True):
    """What the trial is about: the model's counts, the text's identity, a technique's card, the device's ceilings."""

    model: ModelFacts | None = None
    data: DataFacts | None = None
    ceilings: Ceilings | None = None
    cards: dict[str, Card] = {}
    cautions: tuple[Caution, ...] = ()


class Figure(Event, frozen=True, kw_only=True):
    """A single number, of a window or (window = -1) of the trial."""

    name: str
    value: float
    window: int = -1


class Missing(Event, frozen=True, kw_only=True):
    """Why a quantity is not measured, in a window or (window = -1) in the whole trial."""

    name: str
    reason: str
    window: int = -1


class Opened(Event, frozen=True, kw_only=True):
    """A window begins."""

    window: int
    name: str
    at_s: float
    work: Work
    coordinates: dict[str, int] = {}


class Values(Event, frozen=True, kw_only=True):
    """Further values of one series of a window."""

    window: int
    name: str
    unit: str
    source: str
    at_s: tuple[float, ...]
    values: tuple[float, ...]


class Closed(Event, frozen=True, kw_only=True):
    """A window ends."""

    window: int
    at_s: float
    outcome: str = "ok"
    reason: str = ""


class Progress(Event, frozen=True, kw_only=True):
    """How far the trial is, for the person who waits."""

    done: float
    total: float
    note: str = ""


class End(Event, frozen=True, kw_only=True):
    """The trial's outcome, as the worker itself saw it."""

    outcome: str
    reason: str = ""
    traceback: str = ""


AnyEvent = Begun | Phase | Facts | Figure | Missing | Opened | Values | Closed | Progress | End

_decoder = msgspec.json.Decoder(AnyEvent)


def encode_event(event: AnyEvent) -> bytes:
    """Write one event as one line."""
    return msgspec.json.encode(event) + b"\n"


def decode_events(data: bytes) -> tuple[list[AnyEvent], int]:
    """Read all whole lines; return the events and how many bytes they took.

    A last line without its end (the writer was killed, or has not finished) is left for the next call.
    """
    whole = data.rfind(b"\n") + 1
    return [_decoder.decode(line) for line in data[:whole].splitlines() if line], whole
