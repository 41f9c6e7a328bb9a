"""Two techniques, or two machines, compared where nothing pairs their values: Welch's t on the logarithms.

Source: B. L. Welch, The generalization of Student's problem, Biometrika 34 (1947), doi:10.1093/biomet/34.1-2.28.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from efficientllm.stats.interval import mean_and_spread, require_finite
from efficientllm.stats.paired import FEWEST_ROUNDS, Comparison, direction
from efficientllm.stats.student import t_quantile, t_upper_tail


def unpaired(a: Sequence[float], b: Sequence[float], better: str, *, confidence: float = 0.95) -> Comparison:
    """Compare `a` with `b`, one value a process each, whose spreads may differ.

    Values that are the same in every process on both sides have no spread to judge them by: they are taken as exact, as
    in `paired`. `n` of the answer is the smaller number of values.

    Raises:
        ValueError: a value is not finite, or `better` is neither word.

    >>> slower = unpaired([1.10, 1.11, 1.09, 1.10], [1.00, 1.01, 1.00, 0.99], better="low")
    >>> round(slower.ratio, 2), slower.improves, slower.p_value < 0.001
    (1.1, False, True)
    >>> unpaired([1.0, 1.1], [1.0, 1.2, 1.3], better="low").reason
    '2 and 3 values: no test below 3 each'
    """
    sign = direction(better)
    require_finite([*a, *b])
    n = min(len(a), len(b))
    if n == 0:
        return Comparison(n=0, reason="one side has no value")
    scale = "log" if min(*a, *b) > 0 else "linear"
    (mean_a, error_a), (mean_b, error_b) = (_center(values, scale) for values in (a, b))
    shift, tested = mean_a - mean_b, n >= FEWEST_ROUNDS
    standard_error = math.hypot(error_a, error_b) if tested else None
    df = _freedom((error_a, len(a)), (error_b, len(b))) if standard_error else float(n - 1)
    low, high = None, None
    if standard_error and scale == "log":
        half = t_quantile((1 + confidence) / 2, df) * standard_error
        low, high = math.exp(shift - half), math.exp(shift + half)
    return Comparison(
        ratio=math.exp(shift) if scale == "log" else None,
        low=low,
        high=high,
        p_value=_two_sided(shift, standard_error, df),
        n=n,
        improves=shift * sign > 0,
        reason=_reason(standard_error, len(a), len(b), scale),
        scale=scale,
        shift=shift,
        standard_error=standard_error,
        size=1.0 if scale == "log" else math.fsum(abs(value) for value in b) / len(b),
        df=df,
    )


def _center(values: Sequence[float], scale: str) -> tuple[float, float]:
    """Return the mean and its standard error."""
    points = [math.log(value) for value in values] if scale == "log" else list(values)
    center, spread = mean_and_spread(points)
    return center, spread / math.sqrt(len(points))


def _freedom(a: tuple[float, int], b: tuple[float, int]) -> float:
    """Return the degrees of freedom by Welch and Satterthwaite, of two standard errors and their numbers of values."""
    whole = a[0] ** 2 + b[0] ** 2
    return whole**2 / sum(error**4 / (n - 1) for error, n in (a, b))


def _two_sided(shift: float, standard_error: float | None, df: float) -> float | None:
    if standard_error is None:
        return None
    if standard_error == 0.0:
        return 1.0 if shift == 0.0 else 0.0
    return 2 * t_upper_tail(abs(shift) / standard_error, df)


def _reason(standard_error: float | None, num_a: int, num_b: int, scale: str) -> str:
    if standard_error is None:
        return f"{num_a} and {num_b} values: no test below {FEWEST_ROUNDS} each"
    if standard_error == 0.0:
        return "the same in all processes of a side: exact at its resolution"
    return "a value is zero or negative: no ratio" if scale == "linear" else ""
