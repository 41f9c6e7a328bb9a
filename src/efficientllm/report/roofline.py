"""The roofline chart: where each technique's step lies between what it computes and what it moves.

A point's intensity is counted (model FLOPs over the fewest bytes that must cross the memory), its height is measured
(model FLOPs over the median step). Source of the picture: Williams, Waterman, Patterson 2009,
doi:10.1145/1498765.1498785.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

import msgspec

from efficientllm.analysis.table import Row, Section
from efficientllm.physics import roofline
from efficientllm.physics.finding import dtype_of, num_devices, steps_s
from efficientllm.records.measurement import Measurement
from efficientllm.records.window import Window
from efficientllm.report import marks

_NO_WORK = "how many FLOPs and bytes a step needs is not counted here"
_NO_ROOF = "no ceiling of a calibration applies"


class RoofPoint(msgspec.Struct, frozen=True, kw_only=True):
    """A technique's step in one window.

    Attributes:
        name: the technique; `baseline`: whether it is the baseline.
        intensity: FLOP a byte.
        rate, low, high: FLOP/s: the median over repeats, the least and the greatest of them.
        attained: rate over what the roofs allow at this intensity.
        bound: which roof it is under, `compute` or `memory`.
        dtype: number format of its arithmetic, whose roof counts.
    """

    name: str
    baseline: bool
    intensity: float
    rate: float
    low: float
    high: float
    attained: float
    bound: str
    dtype: str


class RoofChart(msgspec.Struct, frozen=True, kw_only=True):
    """The points of one window under the roofs of its machine.

    Attributes:
        heading: of the section; `machine`: charts of one machine may be laid over each other.
        flop_per_s: by dtype, of all devices of a trial; `bytes_per_s` likewise; both empty where not calibrated.
        memory: which bandwidth that is, `read` or `copy`.
        absent: technique -> why it has no point.
    """

    heading: str
    machine: str
    flop_per_s: dict[str, float] = {}
    bytes_per_s: float = 0.0
    memory: str = ""
    points: tuple[RoofPoint, ...] = ()
    absent: dict[str, str] = {}


def roof_charts(sections: Sequence[Section], measurements: Sequence[Measurement]) -> list[RoofChart]:
    """Return a chart for each section that has steps.

    Args:
        sections: with all metrics as columns: why a row has no point is what its `attained` says.
        measurements: the records behind them.
    """
    by_id = {record.id: record for record in measurements}
    return [chart for section in sections if (chart := _chart(section, by_id)) is not None]


def _chart(section: Section, by_id: Mapping[str, Measurement]) -> RoofChart | None:
    points, absent, seen = list[RoofPoint](), dict[str, str](), list[tuple[Measurement, Window]]()
    for row in section.rows:
        pairs = _pairs(row, section.window, by_id)
        if not pairs:
            continue
        seen += pairs
        found = _point(row, pairs)
        if isinstance(found, str):
            absent[row.technique] = found
        else:
            points.append(found)
    if not seen:
        return None
    record, window = seen[0]
    ceilings, many = record.ceilings, num_devices(record)
    machine = f"{record.environment.machine_id} {many}"
    heading = marks.heading(section.stage, section.window)
    if ceilings is None:
        return RoofChart(heading=heading, machine=machine, absent=absent)
    memory = "copy" if window.name in ("train", "curve") else "read"
    bytes_per_s = ceilings.copy_bytes_per_s if memory == "copy" else ceilings.read_bytes_per_s
    return RoofChart(
        heading=heading,
        machine=machine,
        flop_per_s={dtype: many * peak for dtype, peak in ceilings.matmul_peak_flop_per_s.items() if peak > 0},
        bytes_per_s=many * bytes_per_s,
        memory=memory,
        points=tuple(points),
        absent=absent,
    )


def _pairs(row: Row, label: str, by_id: Mapping[str, Measurement]) -> list[tuple[Measurement, Window]]:
    """Return a row's records with their window, where it has steps."""
    found = [(by_id[key], window) for key in row.measurements if key in by_id and row.cells
             for window in by_id[key].windows if window.label() == label and window.outcome == "ok"]  # fmt: skip
    return [(record, window) for record, window in found if steps_s(window)]


def _point(row: Row, pairs: Sequence[tuple[Measurement, Window]]) -> RoofPoint | str:
    """Return a row's point, or why it has none."""
    record, window = pairs[0]
    work = window.work
    if work.model_flops <= 0 or work.moved_bytes <= 0:
        return _NO_WORK
    shares = [share for pair in pairs if (share := roofline.attained(*pair)) is not None]
    if len(shares) < len(pairs):
        return row.cells["attained"].absent if "attained" in row.cells else _NO_ROOF
    rates = [of.work.model_flops / statistics.median(steps_s(of)) for _, of in pairs]
    return RoofPoint(
        name=row.technique,
        baseline=row.baseline,
        intensity=work.model_flops / work.moved_bytes,
        rate=statistics.median(rates),
        low=min(rates),
        high=max(rates),
        attained=statistics.median(shares),
        bound=roofline.bound(work, roofline.measured_roof(record, window)),
        dtype=dtype_of(record),
    )
