"""What a check says, and the figures of a datasheet that it may be given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from efficientllm.records.measurement import ARITHMETIC, Measurement
from efficientllm.records.settings import CalibrateSettings
from efficientllm.records.window import Window

#: Above so many times the calibrated ceiling a figure is suspicious, where there is no datasheet to call it impossible.
CALIBRATION_MARGIN = 1.15


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing wrong with a record.

    Attributes:
        code: reason code, to search for.
        text: one sentence with the figures and the window.
        invalid: whether it cannot be true (the record is never ranked), or is only suspicious (a caution).
    """

    code: str
    text: str
    invalid: bool = False


@dataclass(frozen=True, kw_only=True)
class Datasheet:
    """What the maker says one device can do at most; 0, None or a missing dtype where the maker does not say.

    Attributes:
        flop_per_s: dense matrix products, by dtype, without sparsity.
        bytes_per_s: memory bandwidth.
        capacity_bytes: memory.
        power_cap_w: power limit; the enforced limit in the record goes first.
        boost_clock_hz: clock for which `flop_per_s` holds; a card that was seen to run above it may do more.
    """

    flop_per_s: Mapping[str, float] = field(default_factory=dict)
    bytes_per_s: float = 0.0
    capacity_bytes: float = 0.0
    power_cap_w: float | None = None
    boost_clock_hz: float = 0.0


def impossible(window: Window, code: str, text: str) -> list[Finding]:
    """Return one finding that makes the record invalid; the text names the window."""
    return [Finding(code=code, text=f"{window.label()}: {text}", invalid=True)]


def suspicious(window: Window, code: str, text: str) -> list[Finding]:
    """Return one finding that a reader must know of; the text names the window."""
    return [Finding(code=code, text=f"{window.label()}: {text}")]


def dtype_of(measurement: Measurement) -> str:
    """Return the number format of the trial's arithmetic, empty for a calibration.

    The one that the model was said to compute in, where a precision chose another than the settings' own.
    """
    settings = measurement.trial.settings
    told = measurement.model.implementations.get(ARITHMETIC, "") if measurement.model else ""
    if told:
        return told
    return "" if isinstance(settings, CalibrateSettings) else settings.dtype


def num_devices(measurement: Measurement) -> int:
    """Return how many devices shared the work; a window's `work` is that of all of them."""
    return max(1, len(measurement.environment.devices))


def steps_s(window: Window) -> tuple[float, ...]:
    """Return the window's step times in seconds, empty where no step was timed."""
    series = window.find("step_s")
    return series.values if series else ()
