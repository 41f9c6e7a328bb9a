"""What a device can tell, and how well: for `doctor`."""

from __future__ import annotations

import math
import os
import statistics
import time
from dataclasses import dataclass, field, replace
from itertools import pairwise

from efficientllm.devices._contract import QUANTITIES, Device, Sensor, SensorError
from efficientllm.units import quantity_text, seconds_text

_POLL_S = 0.002


@dataclass(frozen=True)
class InventoryRow:
    """One quantity.

    Attributes:
        quantity: its name; `unit`: its base unit.
        source: what is read, empty if it is absent.
        value: the last reading, None if there was none.
        update_period_s: median time between two changes of the reading, None if it changed less than twice.
        smallest_step: smallest change seen, in the base unit, None if there was none.
        read_s: median time that one reading takes.
        resolution: the three above in words, empty if it is absent.
        absent: why it cannot be measured, or empty.
    """

    quantity: str
    unit: str
    source: str = ""
    value: float | None = None
    update_period_s: float | None = None
    smallest_step: float | None = None
    read_s: float | None = None
    resolution: str = ""
    absent: str = ""


@dataclass
class _Watched:
    """One sensor under watch: when its reading changed, by how much, and what a reading takes."""

    sensor: Sensor
    last: float = math.nan
    changed_s: list[float] = field(default_factory=list)
    steps: list[float] = field(default_factory=list)
    took_s: list[float] = field(default_factory=list)
    failed: str = ""

    def look(self) -> None:
        """Read once, and note whether the reading moved."""
        begin_s = time.perf_counter()
        try:
            value = self.sensor.read()
        except SensorError as error:
            self.failed = str(error)
            return
        self.took_s.append(time.perf_counter() - begin_s)
        if math.isnan(value) or value == self.last:
            return
        if not math.isnan(self.last):
            self.changed_s.append(begin_s)
            self.steps.append(abs(value - self.last))
        self.last = value

    def row(self) -> InventoryRow:
        """Return what was seen."""
        periods = [b - a for a, b in pairwise(self.changed_s)]
        told = not math.isnan(self.last)
        row = InventoryRow(
            quantity=self.sensor.name,
            unit=self.sensor.unit,
            source=self.sensor.source,
            value=self.last if told else None,
            update_period_s=statistics.median(periods) if periods else None,
            smallest_step=min(self.steps, default=None),
            read_s=statistics.median(self.took_s) if self.took_s else None,
            absent=self.failed or ("" if told else self.sensor.silence or "it said nothing while it was watched"),
        )
        return row if row.absent else replace(row, resolution=_in_words(row))


def _in_words(row: InventoryRow) -> str:
    """Say how fine a quantity is.

    >>> _in_words(InventoryRow("energy_j", "j", update_period_s=0.1, smallest_step=7.8, read_s=3e-5))
    'moves every 100 ms by 7.80 J or more; a reading takes 30.0 µs'
    """
    if row.smallest_step is None:
        moves = "did not move while it was watched"
    else:
        every = "once" if row.update_period_s is None else f"every {seconds_text(row.update_period_s)}"
        moves = f"moves {every} by {quantity_text(row.smallest_step, row.unit)} or more"
    return moves if row.read_s is None else f"{moves}; a reading takes {seconds_text(row.read_s)}"


def inventory(device: Device, watch_s: float = 1.0) -> list[InventoryRow]:
    """Watch every sensor for a while and return one row a quantity, in the order of `QUANTITIES`.

    An idle device changes little: a counter shows its period best while something runs.

    Args:
        device: opened; the calling process is the watched one.
        watch_s: for how long.
    """
    pids = (os.getpid(),)
    rows: dict[str, InventoryRow] = {}
    watched: list[_Watched] = []
    for quantity, unit in QUANTITIES.items():
        try:
            watched.append(_Watched(device.sensor(quantity, pids)))
        except SensorError as error:
            rows[quantity] = InventoryRow(quantity=quantity, unit=unit, absent=str(error))
    end_s = time.perf_counter() + watch_s
    while time.perf_counter() < end_s and watched:
        for one in watched:
            if not one.failed:
                one.look()
        time.sleep(_POLL_S)
    rows |= {one.sensor.name: one.row() for one in watched}
    return [rows[quantity] for quantity in QUANTITIES]
