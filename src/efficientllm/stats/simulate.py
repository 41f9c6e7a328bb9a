"""Studies with a known truth, to prove the rules of this folder on.

    step        log time = truth + process effect + AR(1) noise + a rare pause
      └ window  steps until `WindowRule` is satisfied; its median is the process's value
          └ study   techniques x rounds of processes; rounds share a moment of the machine

Windows are simulated with the real stopping rule, once; their errors (log of the median over its true value) do not
depend on the process effect, so studies draw from that pool.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from efficientllm.stats.stopping import WindowRule

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Steps:
    """How the steps of one process vary; times are logarithms, so 0.05 is about 5 %.

    Attributes:
        mean_s: typical step time.
        noise: standard deviation of a step.
        correlation: of a step with the one before it.
        pause_share, pause_factor: share of steps that a pause makes so many times longer.
    """

    mean_s: float = 0.1
    noise: float = 0.05
    correlation: float = 0.6
    pause_share: float = 0.01
    pause_factor: float = 3.0


@dataclass(frozen=True, kw_only=True)
class Spread:
    """How processes vary beyond their steps.

    Attributes:
        process: standard deviation of the logarithm between processes of one technique.
        round: … between rounds, shared by all techniques.
        shape: `normal`, or what the method does not assume: `heavy` (t with 3 degrees), `skewed` (exponential), `two
            modes` (a process lands on one of two speeds, one time in four on the slower).
    """

    process: float = 0.01
    round: float = 0.02
    shape: str = "normal"


def step_times(steps: Steps, num_windows: int, num_steps: int, rng: np.random.Generator) -> Array:
    """Return simulated step times, `[num_windows, num_steps]` in seconds; every window is a process of its own."""
    import numpy as np
    from scipy.signal import lfilter

    fresh = rng.standard_normal((num_windows, num_steps))
    fresh[:, 1:] *= np.sqrt(1 - steps.correlation**2)
    logs = steps.noise * lfilter([1.0], [1.0, -steps.correlation], fresh, axis=1)
    paused = rng.random((num_windows, num_steps)) < steps.pause_share
    return np.asarray(steps.mean_s * np.exp(logs) * np.where(paused, steps.pause_factor, 1.0), dtype=np.float64)


def true_median_s(steps: Steps) -> float:
    """Return the median of a step's time over all processes, by a long simulation of independent steps."""
    import numpy as np

    independent = Steps(**{**steps.__dict__, "correlation": 0.0})
    return float(np.median(step_times(independent, 1, 4_000_000, np.random.default_rng(0))))


def window_errors(
    steps: Steps, num_windows: int, *, min_s: float = 5.0, max_s: float = 30.0, target: float = 0.02, seed: int = 0
) -> tuple[Array, Array]:
    """Run `num_windows` windows under the stopping rule.

    Returns:
        `[num_windows]` logarithms of a window's median over the true one, and `[num_windows]` numbers of steps.
    """
    import numpy as np

    rng = np.random.default_rng(seed)
    most = int(2 * max_s / steps.mean_s) + 1
    medians, counts = np.empty(num_windows), np.empty(num_windows)
    for first in range(0, num_windows, 1000):
        batch = step_times(steps, min(1000, num_windows - first), most, rng)
        for offset, times in enumerate(batch):
            n = _window(times, WindowRule(min_s, max_s, target))
            medians[first + offset], counts[first + offset] = np.median(times[:n]), n
    return np.log(medians / true_median_s(steps)), counts


def study_values(
    errors: Array, spread: Spread, *, num_studies: int, num_techniques: int, num_rounds: int, seed: int = 0
) -> Array:
    """Return logarithms of values over the truth, `[num_studies, num_techniques, num_rounds]`, all of equal truth.

    Args:
        errors: the pool of window errors, from `window_errors`.
        spread: how processes and rounds vary.
        num_studies: how many studies.
        num_techniques: techniques in each.
        num_rounds: processes of each technique.
        seed: of the draws.
    """
    import numpy as np

    rng = np.random.default_rng(seed)
    shape = (num_studies, num_techniques, num_rounds)
    rounds = spread.round * rng.standard_normal((num_studies, 1, num_rounds))
    values = spread.process * _effects(spread.shape, shape, rng) + rounds + rng.choice(errors, size=shape)
    return np.asarray(values, dtype=np.float64)


def as_rows(logs: Array, names: list[str]) -> dict[str, dict[int, float]]:
    """Turn `[num_techniques, num_rounds]` logarithms into the rows that `compare` takes."""
    import numpy as np

    return {name: dict(enumerate(values)) for name, values in zip(names, np.exp(logs).tolist(), strict=True)}


def _window(times: Array, rule: WindowRule) -> int:
    """Return after how many of the steps the rule ends the window."""
    for taken, step_s in enumerate(times.tolist(), start=1):
        rule.add(step_s)
        if not rule.unfinished():
            return taken
    raise AssertionError("a window took twice its longest time")  # `most` allows for it


def _effects(shape_name: str, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Return process effects with mean 0 and standard deviation 1."""
    import numpy as np

    if shape_name == "normal":
        return rng.standard_normal(shape)
    if shape_name == "heavy":
        return np.asarray(rng.standard_t(3, shape) / np.sqrt(3))
    if shape_name == "skewed":
        return rng.exponential(size=shape) - 1
    if shape_name == "two modes":
        return np.asarray(((rng.random(shape) < 0.25) - 0.25) / np.sqrt(0.25 * 0.75))
    raise ValueError(f"unknown shape {shape_name!r}: normal, heavy, skewed or two modes")
