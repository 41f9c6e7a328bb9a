"""GPU performance monitoring (GPM): how busy the multiprocessors, tensor units and memory were, Hopper and later.

    sample ── 100 ms or more ── sample ──► activity in between; the later sample begins the next pair

Source: NVML API reference, "GPM Functions" (samples closer than 100 ms see no refreshed counters).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

from efficientllm.devices._contract import SensorError
from efficientllm.devices.nvml import Nvml, reason_of

#: quantity -> name of NVML's metric, a percentage.
METRICS = {
    "sm_activity_ratio": "NVML_GPM_METRIC_SM_UTIL",
    "tensor_activity_ratio": "NVML_GPM_METRIC_ANY_TENSOR_UTIL",
    "dram_activity_ratio": "NVML_GPM_METRIC_DRAM_BW_UTIL",
}

_SHORTEST_PAIR_S = 0.1


class Gpm:
    """The pairs of samples of one device, shared by the sensors of all metrics.

    Args:
        nvml: the session.
        handle: the card.
        gpu_instance: the MIG slice's number on it, None for the whole card.
        clock: seconds now.

    Raises:
        SensorError: the card has no GPM, or the driver refuses it.
    """

    def __init__(
        self,
        nvml: Nvml,
        handle: Any,
        gpu_instance: int | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._nvml, self._handle, self._gpu_instance, self._clock = nvml, handle, gpu_instance, clock
        support = nvml.ask("activity counters", "nvmlGpmQueryDeviceSupport", handle)
        if not support.isSupportedDevice:
            raise SensorError("activity counters: this card has no GPM (NVIDIA cards have it from Hopper on)")
        self._older = nvml.ask("activity counters", "nvmlGpmSampleAlloc")
        self._newer = nvml.ask("activity counters", "nvmlGpmSampleAlloc")
        self._sample(self._newer)
        self._taken_s = clock()
        self._ratios: dict[str, float] = {}

    def read(self, quantity: str) -> float:
        """Return a metric's mean over the last pair, each pair once; NaN until the next pair is complete."""
        if quantity not in self._ratios and self._clock() - self._taken_s >= _SHORTEST_PAIR_S:
            self._advance()
        return self._ratios.pop(quantity, math.nan)

    def _advance(self) -> None:
        self._older, self._newer = self._newer, self._older
        self._sample(self._newer)
        self._taken_s = self._clock()
        self._ratios = self._compare()

    def _sample(self, buffer: Any) -> None:
        if self._gpu_instance is None:
            self._nvml.ask("activity counters", "nvmlGpmSampleGet", self._handle, buffer)
        else:
            self._nvml.ask("activity counters", "nvmlGpmMigSampleGet", self._handle, self._gpu_instance, buffer)

    def _compare(self) -> dict[str, float]:
        library = self._nvml.library
        request = library.c_nvmlGpmMetricsGet_t()
        request.version = library.NVML_GPM_METRICS_GET_VERSION
        request.numMetrics = len(METRICS)
        request.sample1, request.sample2 = self._older, self._newer
        for metric, name in zip(request.metrics, METRICS.values(), strict=False):
            metric.metricId = getattr(library, name)
        self._nvml.ask("activity counters", "nvmlGpmMetricsGet", request)
        told = zip(METRICS, request.metrics, strict=False)
        return {name: metric.value / 100 for name, metric in told if self._is_told(name, metric)}

    def _is_told(self, quantity: str, metric: Any) -> bool:
        if metric.nvmlReturn:
            raise SensorError(f"{quantity}: {reason_of(self._nvml.library.NVMLError(metric.nvmlReturn))}")
        return not math.isnan(metric.value)
