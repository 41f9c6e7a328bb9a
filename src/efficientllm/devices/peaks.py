"""What the vendors' datasheets promise: dense arithmetic by number format, memory bandwidth, cache.

Rates are dense (without 2:4 sparsity), in operations a second with fp32 accumulation, at the boost clock of the
datasheet. A card may run above that clock for a while (`boost_clock_hz`), consumer cards regularly do: compare with
the clock that was sampled. Names are those of the driver; a MIG slice or a laptop card has no entry, since the whole
card's figures are not its own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_T, _G, _MIB = 1e12, 1e9, 1024**2


@dataclass(frozen=True)
class Peaks:
    """One card's datasheet.

    Attributes:
        flop_per_s: number format (torch's dtype name, or `tf32`) -> dense operations a second.
        memory_bytes_per_s: bandwidth of the device memory.
        cache_bytes: last-level cache.
        boost_clock_hz: the clock for which `flop_per_s` holds.
        source: where the figures stand.
    """

    flop_per_s: dict[str, float]
    memory_bytes_per_s: float
    cache_bytes: int
    boost_clock_hz: float
    source: str


def _peaks(
    source: str,
    *,
    bf16: float,
    fp32: float,
    tf32: float,
    bandwidth: float,
    cache: float,
    clock: float,
    fp8: float = 0.0,
    int8: float = 0.0,
    fp16: float = 0.0,
) -> Peaks:
    """Build an entry from Tera-operations, GB/s, MiB and GHz; a format of 0 is one the card lacks."""
    rates = {"bfloat16": bf16, "float16": fp16 or bf16, "float8_e4m3fn": fp8, "int8": int8, "tf32": tf32}
    rates["float32"] = fp32
    return Peaks(
        flop_per_s={name: rate * _T for name, rate in rates.items() if rate},
        memory_bytes_per_s=bandwidth * _G,
        cache_bytes=round(cache * _MIB),
        boost_clock_hz=clock * _G,
        source=source,
    )


_HOPPER = "NVIDIA H100 Tensor Core GPU datasheet and architecture whitepaper"
_H200 = "NVIDIA H200 Tensor Core GPU datasheet"
_GRACE = "NVIDIA GH200 Grace Hopper Superchip datasheet"
_A100 = "NVIDIA A100 Tensor Core GPU datasheet and architecture whitepaper"
_ADA = "NVIDIA Ada GPU architecture whitepaper"
_BLACKWELL = "NVIDIA Blackwell (HGX B200, GB200 NVL72) datasheet"

_SXM_HOPPER = {"bf16": 989.4, "fp32": 66.9, "tf32": 494.7, "fp8": 1978.9, "int8": 1978.9, "clock": 1.83}
_NVL_HOPPER = {"bf16": 835.5, "fp32": 60.0, "tf32": 417.5, "fp8": 1671.0, "int8": 1671.0, "clock": 1.785}
_AMPERE_100 = {"bf16": 312.0, "fp32": 19.5, "tf32": 156.0, "int8": 624.0, "clock": 1.41, "cache": 40}

#: driver's name (a full match) -> datasheet.
_DATASHEETS = {
    r"NVIDIA H200": _peaks(_H200, **_SXM_HOPPER, bandwidth=4800, cache=60),
    r"NVIDIA H200 NVL": _peaks(_H200, **_NVL_HOPPER, bandwidth=4800, cache=60),
    r"NVIDIA H100( 80GB HBM3)?": _peaks(_HOPPER, **_SXM_HOPPER, bandwidth=3350, cache=50),
    r"NVIDIA H100 NVL": _peaks(_HOPPER, **_NVL_HOPPER, bandwidth=3938, cache=50),
    r"NVIDIA H100 PCIe": _peaks(
        _HOPPER, bf16=756, fp32=51.2, tf32=378, fp8=1513, int8=1513, bandwidth=2039, cache=50, clock=1.755
    ),
    r"NVIDIA GH200 480GB": _peaks(_GRACE, **_SXM_HOPPER, bandwidth=4000, cache=60),
    r"NVIDIA GH200 144G HBM3e": _peaks(_GRACE, **_SXM_HOPPER, bandwidth=4900, cache=60),
    r"NVIDIA A100-SXM4-40GB": _peaks(_A100, **_AMPERE_100, bandwidth=1555),
    r"NVIDIA A100-SXM4-80GB": _peaks(_A100, **_AMPERE_100, bandwidth=2039),
    r"NVIDIA A100-PCIE-40GB": _peaks(_A100, **_AMPERE_100, bandwidth=1555),
    r"NVIDIA A100 80GB PCIe": _peaks(_A100, **_AMPERE_100, bandwidth=1935),
    r"NVIDIA L40S": _peaks(
        "NVIDIA L40S datasheet",
        bf16=362.05, fp32=91.6, tf32=183, fp8=733, int8=733, bandwidth=864, cache=96, clock=2.52,
    ),
    r"NVIDIA L4": _peaks(
        "NVIDIA L4 datasheet", bf16=121, fp32=30.3, tf32=60, fp8=242.5, int8=242.5, bandwidth=300, cache=48, clock=2.04
    ),
    r"NVIDIA GeForce RTX 4090": _peaks(
        _ADA, bf16=165.2, fp32=82.6, tf32=82.6, fp8=330.3, int8=660.6, bandwidth=1008, cache=72, clock=2.52
    ),
    r"NVIDIA GeForce RTX 3090": _peaks(
        "NVIDIA Ampere GA102 GPU architecture whitepaper",
        bf16=71, fp32=35.6, tf32=35.6, int8=284, bandwidth=936, cache=6, clock=1.695,
    ),
    r"NVIDIA B200": _peaks(
        _BLACKWELL, bf16=2250, fp32=80, tf32=1125, fp8=4500, int8=4500, bandwidth=8000, cache=126, clock=1.965
    ),
    r"NVIDIA GB200": _peaks(
        _BLACKWELL, bf16=2500, fp32=80, tf32=1250, fp8=5000, int8=5000, bandwidth=8000, cache=126, clock=2.062
    ),
}  # fmt: skip


def datasheet(name: str) -> Peaks | None:
    """Return the datasheet of a device by the name that its driver gives it, None for one that has no entry.

    >>> datasheet("NVIDIA H200").flop_per_s["bfloat16"] / 1e12, datasheet("NVIDIA H200 MIG 1g.18gb")
    (989.4, None)
    """
    return next((peaks for pattern, peaks in _DATASHEETS.items() if re.fullmatch(pattern, name)), None)
