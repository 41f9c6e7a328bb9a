"""Matrix products for the arithmetic ceilings: which formats there are, and which shape is fastest.

The data are random normal: products of zeros draw less power and so run faster than any model's (arXiv 2409.18324).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from efficientllm.devices._contract import Device
from efficientllm.errors import EfficientLLMError

_FIRST_SIDE = 512
_LARGEST_SIDE = 16384
_SLOW_S = 1.0  # a first product of the smallest side that takes longer is emulated element by element


class Unmeasurable(EfficientLLMError):
    """A number format that this device or this torch cannot multiply; `str()` of it is the reason."""


@dataclass(frozen=True)
class MatmulWork:
    """One square product, ready to be repeated.

    Attributes:
        product: does it once, without waiting for the device.
        side: rows and columns.
        product_s: seconds that one took when it was tried.
    """

    product: Callable[[], object]
    side: int
    product_s: float

    @property
    def flop(self) -> float:
        """Floating-point operations of one product: a multiplication and an addition an element pair."""
        return 2.0 * self.side**3


def best_work(device: Device, dtype: str, burst_s: float) -> MatmulWork:
    """Try growing sides and return the fastest whose product still fits into a burst.

    Raises:
        Unmeasurable: the format is unknown, or its product fails here.
    """
    tried: list[MatmulWork] = []
    side = _FIRST_SIDE
    while side <= _LARGEST_SIDE and (not tried or tried[-1].product_s < burst_s):
        tried.append(_try(device, dtype, side))
        side *= 2
    fitting = [work for work in tried if work.product_s <= burst_s] or tried[:1]
    return max(fitting, key=lambda work: work.flop / work.product_s)


def _try(device: Device, dtype: str, side: int) -> MatmulWork:
    """Build a product and time it: the best of three after a first one."""
    try:
        product = _product(device.torch_device(), dtype, side)
        first_s = _once(device, product)
        product_s = first_s if first_s > _SLOW_S else min(_once(device, product) for _ in range(3))
    except (RuntimeError, NotImplementedError, TypeError) as error:
        first_line = str(error).partition("\n")[0]
        raise Unmeasurable(f"{dtype} matrix products do not run on this device: {first_line}") from error
    if side == _FIRST_SIDE and product_s > _SLOW_S:
        raise Unmeasurable(f"{dtype} matrix products are emulated here: one of side {side} takes {product_s:.1f} s")
    return MatmulWork(product=product, side=side, product_s=product_s)


def _once(device: Device, product: Callable[[], object]) -> float:
    device.synchronize()
    begin_s = time.perf_counter()
    product()
    device.synchronize()
    return time.perf_counter() - begin_s


def _product(where: torch.device, dtype: str, side: int) -> Callable[[], object]:
    left, right = (torch.randn(side, side, device=where) for _ in range(2))
    if dtype == "tf32":
        return _tf32_product(left, right)
    if dtype == "int8":
        ints = [(matrix * 32).round().clamp(-127, 127).to(torch.int8) for matrix in (left, right)]
        return lambda: torch._int_mm(ints[0], ints[1])
    if dtype.startswith("float8"):
        return _float8_product(left, right, dtype)
    kind = getattr(torch, dtype, None)
    if not isinstance(kind, torch.dtype) or not kind.is_floating_point:
        raise Unmeasurable(f"no number format {dtype!r}; use float32, bfloat16, float16, tf32, float8_e4m3fn or int8")
    left, right = left.to(kind), right.to(kind)
    out = torch.empty(side, side, dtype=kind, device=where)
    return lambda: torch.matmul(left, right, out=out)


def _tf32_product(left: torch.Tensor, right: torch.Tensor) -> Callable[[], object]:
    """Return a float32 product that may round its inputs to tf32, whatever the program's setting is."""
    if left.device.type != "cuda":
        raise Unmeasurable("tf32 is a format of NVIDIA cards")

    def product() -> object:
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("high")
        try:
            return torch.matmul(left, right)
        finally:
            torch.set_float32_matmul_precision(before)

    return product


def _float8_product(left: torch.Tensor, right: torch.Tensor, dtype: str) -> Callable[[], object]:
    kind = getattr(torch, dtype)
    scale = torch.ones((), device=left.device)
    left8, right8 = left.to(kind), right.to(kind).t()  # the second operand must be column-major
    return lambda: torch._scaled_mm(left8, right8, scale_a=scale, scale_b=scale, out_dtype=torch.bfloat16)
