"""Small measurements for the doctests of this folder."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from efficientllm.records.environment import DeviceInfo
from efficientllm.records.examples import example_measurement
from efficientllm.records.measurement import Ceilings, Measurement, ModelFacts
from efficientllm.records.series import Series
from efficientllm.records.window import Window


def series(*values: float) -> Series:
    """Return a series with one value a second."""
    return Series(name="", unit="", at_s=tuple(float(i) for i in range(len(values))), values=values)


def measured(
    window: str = "train",
    *,
    kind: str = "cuda",
    whole: dict[str, float] | None = None,
    ceilings: Ceilings | None = None,
    model: ModelFacts | None = None,
    **given: Any,
) -> tuple[Measurement, Window]:
    """Return a measurement on a device with 1 KiB of cache, and its one window.

    >>> measured(step_s=(0.5,))[1].end_s
    0.5
    """
    measurement = example_measurement(window=window, **given)
    device = DeviceInfo(kind=kind, name="x", uuid="0", capacity_bytes=1 << 34, cores=2, last_level_cache_bytes=1024)
    environment = replace(measurement.environment, devices=(device,))
    measurement = replace(measurement, environment=environment, figures=whole or {}, ceilings=ceilings, model=model)
    return measurement, measurement.windows[0]


def calibrated(**rates: float) -> Ceilings:
    """Return ceilings of a float32 matrix peak and a read and copy bandwidth.

    >>> calibrated(flop_per_s=1e12).matmul_peak_flop_per_s
    {'float32': 1000000000000.0}
    """
    bandwidth = rates.get("bytes_per_s", 0.0)
    return Ceilings(
        matmul_peak_flop_per_s={"float32": rates.get("flop_per_s", 0.0)},
        read_bytes_per_s=bandwidth,
        copy_bytes_per_s=bandwidth,
        idle_power_w=rates.get("idle_power_w"),
    )


def facts(total: int = 1000, active: int = 500, weight_bytes: int = 4000, **more: Any) -> ModelFacts:
    """Return a model's counts.

    >>> facts().parameters_active
    500
    """
    return ModelFacts(
        parameters_total=total, parameters_active=active, parameters_embedding=0, weight_bytes=weight_bytes, **more
    )
